"""Every command: its name, where it is defined, and its summary in ``lifeline --help``, in that order."""

from lifeline.cli.lazy import CommandEntry

COMMANDS = (
    CommandEntry("node", "lifeline.cli.node:node", "Run a node: apply the log, keep the state on disk, serve it."),
    CommandEntry("produce", "lifeline.cli.publish:produce", "Publish actions to Kafka from one source."),
    CommandEntry("get", "lifeline.cli.read:get", "Print a user's newest events as the node has them now."),
    CommandEntry("score", "lifeline.cli.read:score", "Score items for a user on the user's history as it is now."),
    CommandEntry("explain", "lifeline.cli.read:explain", "Show why an item has its score for a user."),
    CommandEntry("erase", "lifeline.cli.publish:erase", "Erase a user from every node and every replay."),
    CommandEntry(
        "partitions", "lifeline.cli.node:partitions", "Show which partitions a node holds, and who owns the rest."
    ),
    CommandEntry("verify", "lifeline.cli.verify:verify", "Compare the state with a replay of the log, or with a file."),
    CommandEntry("replay", "lifeline.cli.replay:replay", "Rebuild the state from the log into a new directory."),
    CommandEntry(
        "fingerprint", "lifeline.cli.fingerprint:fingerprint", "Print the fingerprint of each partition on disk."
    ),
    CommandEntry("inspect", "lifeline.cli.inspect:inspect", "Show what the stored bytes of partitions or a user hold."),
    CommandEntry("train", "lifeline.cli.train:train", "Train a model on stored histories and save a new version."),
    CommandEntry(
        "evaluate", "lifeline.cli.evaluate:evaluate", "Train and compare variants of the model; write a report."
    ),
    CommandEntry("quantize", "lifeline.cli.quantize:quantize", "Measure what a model loses in bfloat16 and in int8."),
    CommandEntry(
        "simulate", "lifeline.cli.simulate:simulate", "Generate a world of users whose preferences are known."
    ),
    CommandEntry("demo", "lifeline.cli.dev:demo", "Show the whole path once, on a real Kafka and a real history."),
    CommandEntry("broker", "lifeline.cli.dev:broker", "Run Apache Kafka in the foreground, for development."),
    CommandEntry("bench", "lifeline.cli.dev:bench", "Run a benchmark; only in a checkout of the project."),
    CommandEntry("load", "lifeline.cli.load:load", "Put a node under load with reads and scores."),
    CommandEntry("health", "lifeline.cli.node:health", "Ask a node whether it serves: exit code 0 if so, else 1."),
    CommandEntry("metrics", "lifeline.cli.reference:metrics", "Print every metric of a node, as in docs/metrics.md."),
    CommandEntry(
        "limits", "lifeline.cli.reference:limits", "Print the limits on request fields, as in docs/limits.md."
    ),
    CommandEntry("token", "lifeline.cli.token:token", "Create a bearer token for a caller, and its hash."),
    CommandEntry("topics", "lifeline.cli.topics:topics", "The topics that Lifeline needs."),
    CommandEntry("dlq", "lifeline.cli.dlq:dlq", "Dead letters: records that could not be applied."),
    CommandEntry("snapshot", "lifeline.cli.snapshot:snapshot", "Snapshots: copies of partitions at a URL."),
    CommandEntry("model", "lifeline.cli.model:model", "The model that a node scores with."),
    CommandEntry("experiment", "lifeline.cli.experiment:experiment", "Experiments that compare versions of a model."),
    CommandEntry("config", "lifeline.cli.config:config", "The configuration."),
    CommandEntry(
        "replay-partition",
        "lifeline.cli.replay:replay_partition",
        "Replay one partition: the process that `lifeline replay` starts.",
        hidden=True,
    ),
)
