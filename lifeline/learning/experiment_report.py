"""The report of an experiment: exposures joined with what users did after them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from lifeline.config import Settings
from lifeline.core.sequence import Column, SequenceQuery
from lifeline.ops.readers import readers_of
from lifeline.scorer.errors import ExperimentError
from lifeline.scorer.experiment import CONTROL, Arm, Lift, lift_of, sample_ratio_p
from lifeline.store.reader import SequenceReader
from lifeline.stream.record import Record
from lifeline.stream.topic_reader import read_topic
from lifeline.v1.exposure_pb2 import Exposure

_COLUMNS = Column.TIMESTAMP_MS | Column.ACTION_TYPE

_log = structlog.get_logger(__name__)


class Compared(NamedTuple):
    """One arm against the control."""

    arm: str
    lifts: Mapping[str, Lift]
    """By action type: actions of a user from the first exposure on."""


class ExperimentReport(NamedTuple):
    """What an experiment has shown so far."""

    experiment: str
    users: Mapping[str, int]
    """By arm: those who count."""
    crossed: int
    """Users who were answered by several arms: they count in none."""
    elsewhere: int
    """Users whose history is not in this data directory: they do not count either."""
    sample_ratio_p: float
    """How likely numbers of exposed users as far from the shares are."""
    compared: list[Compared]


class _Seen(NamedTuple):
    arm: str
    first_ms: int


def experiment_report(settings: Settings, window_ms: int | None = None) -> ExperimentReport:
    """Report on the configured experiment, from the exposures topic and the data directory.

    With `window_ms` actions count for so long after a user's first exposure. Raises StreamError, StoreError, and
    ExperimentError where there is none, or an arm has fewer than two users yet.
    """
    if not settings.scorer.experiment:
        raise ExperimentError("no experiment is configured: set scorer.experiment and scorer.arms like its nodes")
    topic = settings.kafka.exposures_topic
    advice = "nodes make it once scorer.experiment is set"
    exposures = _decoded(read_topic(settings.kafka, topic, advice=advice), settings.scorer.experiment)
    names = {one.id: name for name, one in settings.vocabulary.action_types.items()}
    with readers_of(settings) as reader_of:
        return report(settings.scorer.experiment, exposures, settings.scorer.arms, names, reader_of, window_ms)


def report(
    experiment: str,
    exposures: Iterable[Exposure],
    arms: Mapping[str, Arm],
    action_types: Mapping[int, str],
    reader_of: Callable[[str], SequenceReader | None],
    window_ms: int | None,
) -> ExperimentReport:
    """Report on exposures; `action_types` gives the names of what is counted."""
    seen: dict[str, _Seen] = {}
    crossed: set[str] = set()
    for one in exposures:
        before = seen.get(one.user_id)
        if before is not None and before.arm != one.arm:
            crossed.add(one.user_id)
        first_ms = one.timestamp_ms if before is None else min(before.first_ms, one.timestamp_ms)
        seen[one.user_id] = _Seen(one.arm, first_ms)
    counts: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]] = {name: [] for name in arms}
    elsewhere = 0
    for user_id, (arm, first_ms) in seen.items():
        if user_id in crossed or arm not in counts:
            continue
        reader = reader_of(user_id)
        if reader is None:
            elsewhere += 1
            continue
        until_ms = None if window_ms is None else first_ms + window_ms
        query = SequenceQuery(columns=_COLUMNS, from_timestamp_ms=first_ms, to_timestamp_ms=until_ms)
        (events,) = reader.read(user_id, query).sequences.values()
        done = np.zeros(0, np.uint8) if events.action_type is None else events.action_type
        counts[arm].append(np.bincount(done, minlength=max(action_types) + 1))
    users = {name: len(rows) for name, rows in counts.items()}
    exposed = Counter(one.arm for user, one in seen.items() if user not in crossed)
    compared = []
    for name in arms:
        if name == CONTROL:
            continue
        if min(users[CONTROL], users[name]) < 2:
            raise ExperimentError(
                f"{users[CONTROL]} users of {CONTROL} and {users[name]} of {name} are too few: wait for more"
            )
        control, treated = np.stack(counts[CONTROL]).astype(float), np.stack(counts[name]).astype(float)
        lifts = {what: lift_of(control[:, number], treated[:, number]) for number, what in action_types.items()}
        compared.append(Compared(name, lifts))
    return ExperimentReport(experiment, users, len(crossed), elsewhere, sample_ratio_p(exposed, arms), compared)


def _decoded(records: Iterable[Record], experiment: str) -> Iterable[Exposure]:
    """Yield the experiment's own exposures; what cannot be read is told, and passed over."""
    for record in records:
        try:
            exposure = Exposure.FromString(record.value or b"")
        except DecodeError:
            _log.warning("an exposure cannot be read", record=f"{record.partition}/{record.offset}")
            continue
        if exposure.experiment == experiment:
            yield exposure
