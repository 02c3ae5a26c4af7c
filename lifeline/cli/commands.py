"""Every command: its name, where it is defined, and its summary in ``lifeline --help``, in that order."""

from lifeline.cli.lazy import CommandEntry

COMMANDS = (
    CommandEntry("node", "lifeline.cli.node:node", "Run a node: apply the log, keep the state on disk, serve it."),
    CommandEntry("produce", "lifeline.cli.publish:produce", "Publish actions to Kafka from one source."),
    CommandEntry("get", "lifeline.cli.read:get", "Print the newest events of a user, or of several.", has_logger=False),
    CommandEntry(
        "score", "lifeline.cli.read:score", "Score items for a user, with the current history.", has_logger=False
    ),
    CommandEntry("explain", "lifeline.cli.read:explain", "Explain the score of an item for a user.", has_logger=False),
    CommandEntry("erase", "lifeline.cli.publish:erase", "Erase a user from every node and every replay."),
    CommandEntry(
        "partitions",
        "lifeline.cli.node:partitions",
        "Show the partitions of a node, and the owners of the others.",
        has_logger=False,
    ),
    CommandEntry("verify", "lifeline.cli.verify:verify", "Compare the state with a replay of the log, or with a file."),
    CommandEntry("replay", "lifeline.cli.replay:replay", "Rebuild the state from the log into a new directory."),
    CommandEntry(
        "fingerprint", "lifeline.cli.fingerprint:fingerprint", "Print the fingerprint of each partition on disk."
    ),
    CommandEntry(
        "inspect",
        "lifeline.cli.inspect:inspect",
        "Show sizes and layout of stored partitions, users and chunks.",
        has_logger=False,
    ),
    CommandEntry("train", "lifeline.cli.train:train", "Train a model on stored histories and save a new version."),
    CommandEntry(
        "evaluate", "lifeline.cli.evaluate:evaluate", "Train and compare variants of the model; write a report."
    ),
    CommandEntry(
        "quantize", "lifeline.cli.quantize:quantize", "Measure the accuracy of a model in bfloat16 and in int8."
    ),
    CommandEntry(
        "simulate", "lifeline.cli.simulate:simulate", "Generate histories of simulated users with known preferences."
    ),
    CommandEntry("demo", "lifeline.cli.dev:demo", "Run the whole path once, on a real Kafka and a real history."),
    CommandEntry("broker", "lifeline.cli.dev:broker", "Run Apache Kafka in the foreground, for development."),
    CommandEntry("bench", "lifeline.cli.dev:bench", "Run a benchmark; needs a checkout of the project."),
    CommandEntry("load", "lifeline.cli.load:load", "Generate load on a node: reads and scores."),
    CommandEntry(
        "health",
        "lifeline.cli.node:health",
        "Check whether a node serves: exit code 0 if it does, else 1.",
        has_logger=False,
    ),
    CommandEntry(
        "metrics",
        "lifeline.cli.reference:metrics",
        "Print every metric of a node, as in docs/metrics.md.",
        has_logger=False,
    ),
    CommandEntry(
        "limits", "lifeline.cli.reference:limits", "Print the limits on request fields, as in docs/limits.md."
    ),
    CommandEntry(
        "token", "lifeline.cli.token:token", "Create a bearer token for a caller, and its hash.", has_logger=False
    ),
    CommandEntry("topics", "lifeline.cli.topics:topics", "Create the Kafka topics."),
    CommandEntry("dlq", "lifeline.cli.dlq:dlq", "List, show and retry dead letters (records not applied)."),
    CommandEntry("snapshot", "lifeline.cli.snapshot:snapshot", "Create, list and restore snapshots of partitions."),
    CommandEntry("model", "lifeline.cli.model:model", "Show or change the model version of a node.", has_logger=False),
    CommandEntry(
        "experiment", "lifeline.cli.experiment:experiment", "Report on experiments that compare model versions."
    ),
    CommandEntry("config", "lifeline.cli.config:config", "Show the configuration.", has_logger=False),
    CommandEntry(
        "replay-partition",
        "lifeline.cli.replay:replay_partition",
        "Replay one partition: the process that `lifeline replay` starts.",
        hidden=True,
    ),
)
