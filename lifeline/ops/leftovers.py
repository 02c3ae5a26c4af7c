"""What an erasure does not reach: where data of the user may still be, and until when.

`docs/operations.md` has the whole list, with what removes each.
"""

from typing import NamedTuple

from lifeline.config import Settings
from lifeline.core.kafka_errors import StreamError
from lifeline.core.topics import retentions_ms

_DAY_MS = 86_400_000


class Leftover(NamedTuple):
    """One place."""

    place: str
    until: str


def leftovers(settings: Settings) -> list[Leftover]:
    """Return the places, with the topics as they are on the cluster now."""
    kafka, snapshot = settings.kafka, settings.snapshot
    names = [kafka.actions_topic, kafka.dead_letter_topic, kafka.selections_topic, kafka.exposures_topic]
    try:
        kept = retentions_ms(kafka)
    except StreamError as error:
        found = [Leftover(f"topic {name}", f"not known: {error}") for name in names]
    else:
        found = [Leftover(f"topic {name}", _until(kept[name])) for name in names if name in kept]
    if snapshot.url is not None:
        newer = f"{snapshot.keep} newer ones of the partition have been made"
        found.append(Leftover(f"snapshots at {snapshot.url} made before", newer))
    return [
        *found,
        Leftover("the files of nodes that hold or follow the partition", "seconds after each has applied the erasure"),
        Leftover("directories set aside (partition-*.replaced-*), replays, copies for training", "you remove them"),
        Leftover("the partition's item table: ids of items, without user and time", "the partition is built anew"),
    ]


def _until(retention_ms: int | None) -> str:
    if retention_ms is None:
        return "for ever: its retention.ms is -1"
    return f"{retention_ms / _DAY_MS:g} days after each record, and a segment more"
