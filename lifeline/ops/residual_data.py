"""Residual data of an erased user: places that an erasure does not reach, and how long they may hold data.

`docs/operations.md` has the whole list, with what removes each.
"""

from typing import NamedTuple

from lifeline.config import Settings
from lifeline.core.kafka_errors import StreamError
from lifeline.core.topics import retentions_ms

_DAY_MS = 86_400_000


class ResidualCopy(NamedTuple):
    """One place that may hold data of the user."""

    place: str
    until: str


def residual_copies(settings: Settings) -> list[ResidualCopy]:
    """Return the places, with the retentions of the topics as they are on the cluster now."""
    kafka, snapshot = settings.kafka, settings.snapshot
    names = [kafka.actions_topic, kafka.dead_letter_topic, kafka.selections_topic, kafka.exposures_topic]
    try:
        retentions = retentions_ms(kafka)
    except StreamError as error:
        copies = [ResidualCopy(f"topic {name}", f"not known: {error}") for name in names]
    else:
        copies = [ResidualCopy(f"topic {name}", _until(retentions[name])) for name in names if name in retentions]
    if snapshot.url is not None:
        newer = f"{snapshot.keep} newer ones of the partition have been made"
        copies.append(ResidualCopy(f"snapshots at {snapshot.url} made before", newer))
    return [
        *copies,
        ResidualCopy(
            "the files of nodes that hold or follow the partition",
            "a few seconds after each node has applied the erasure",
        ),
        ResidualCopy("directories set aside (partition-*.replaced-*), replays, copies for training", "you remove them"),
        ResidualCopy("the partition's item table: ids of items, without user and time", "the partition is rebuilt"),
    ]


def _until(retention_ms: int | None) -> str:
    if retention_ms is None:
        return "for ever: its retention.ms is -1"
    return f"{retention_ms / _DAY_MS:g} days after each record, and a segment more"
