"""Partitions that were added to the actions topic.

A user's partition is a hash of the user id modulo the number of partitions. Once the topic has more partitions,
producers send many users to others than before. A node that went on would spread a user's history over two partitions,
and readers would find only one of them. So nodes stop where they are, and go on answering.
"""

from datetime import UTC, datetime


def suspension(built_with: int, now_has: int) -> str:
    """Return why nothing more may be applied to stores that were built with fewer partitions than the topic has."""
    noticed = datetime.now(UTC).isoformat(timespec="seconds")
    return (
        f"{now_has - built_with} partitions were added to the actions topic by {noticed}: it has {now_has}, and this "
        f"data directory was built with {built_with}. Producers send users to other partitions since then, so later "
        "records would split their histories. Reads are answered as of the applied offset, and the topic keeps every "
        "record. To go on, copy the records by key into a new topic with a final number of partitions, and start nodes "
        "on it with kafka.actions_topic, kafka.partitions and an empty node.data_dir (docs/runbook.md, "
        "LifelinePartitionsAdded)"
    )
