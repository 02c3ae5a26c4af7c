"""The report of an experiment: exposures joined with what users did after them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from lifeline.config import Settings
from lifeline.core.sequence import Column, SequenceQuery
from lifeline.ops.offline import open_user_readers
from lifeline.scorer.errors import ExperimentError
from lifeline.scorer.experiment import CONTROL, Arm, Lift, lift_of, sample_ratio_p
from lifeline.store.reader import SequenceReader
from lifeline.stream.record import Record
from lifeline.stream.topic_reader import read_topic
from lifeline.v1.exposure_pb2 import Exposure

_COLUMNS = Column.TIMESTAMP_MS | Column.ACTION_TYPE

_log = structlog.get_logger(__name__)


class ArmComparison(NamedTuple):
    """One arm compared with the control."""

    arm: str
    lifts: Mapping[str, Lift]
    """By action type: actions of a user from the first exposure on."""


class ExperimentReport(NamedTuple):
    """The results of an experiment so far."""

    experiment: str
    users: Mapping[str, int]
    """By arm: the users who are counted."""
    crossed: int
    """Users who were answered by several arms: they are counted in none."""
    elsewhere: int
    """Users whose history is not in this data directory: they are not counted either."""
    sample_ratio_p: float
    """The probability of numbers of exposed users that are at least as far from the shares."""
    compared: list[ArmComparison]


class _FirstExposure(NamedTuple):
    arm: str
    first_ms: int


def experiment_report(settings: Settings, window_ms: int | None = None) -> ExperimentReport:
    """Report on the configured experiment, from the exposures topic and the data directory.

    With `window_ms`, actions count for that long after a user's first exposure. Raises StreamError, StoreError, and
    ExperimentError if no experiment is configured, or an arm has fewer than two users yet.
    """
    if not settings.scorer.experiment:
        raise ExperimentError("no experiment is configured: set scorer.experiment and scorer.arms like its nodes")
    topic = settings.kafka.exposures_topic
    advice = "nodes make it once scorer.experiment is set"
    exposures = _decoded(read_topic(settings.kafka, topic, advice=advice), settings.scorer.experiment)
    names = {action_type.id: name for name, action_type in settings.vocabulary.action_types.items()}
    with open_user_readers(settings) as reader_of:
        return report(settings.scorer.experiment, exposures, settings.scorer.arms, names, reader_of, window_ms)


def report(
    experiment: str,
    exposures: Iterable[Exposure],
    arms: Mapping[str, Arm],
    action_types: Mapping[int, str],
    reader_of: Callable[[str], SequenceReader | None],
    window_ms: int | None,
) -> ExperimentReport:
    """Report on exposures; `action_types` gives the names of the action types that are counted."""
    seen: dict[str, _FirstExposure] = {}
    crossed: set[str] = set()
    for exposure in exposures:
        before = seen.get(exposure.user_id)
        if before is not None and before.arm != exposure.arm:
            crossed.add(exposure.user_id)
        first_ms = exposure.timestamp_ms if before is None else min(before.first_ms, exposure.timestamp_ms)
        seen[exposure.user_id] = _FirstExposure(exposure.arm, first_ms)
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
    exposed = Counter(exposure.arm for user, exposure in seen.items() if user not in crossed)
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
        compared.append(ArmComparison(name, lifts))
    return ExperimentReport(experiment, users, len(crossed), elsewhere, sample_ratio_p(exposed, arms), compared)


def _decoded(records: Iterable[Record], experiment: str) -> Iterable[Exposure]:
    """Yield the experiment's own exposures; log and skip what cannot be read."""
    for record in records:
        try:
            exposure = Exposure.FromString(record.value or b"")
        except DecodeError:
            _log.warning("an exposure cannot be read", record=f"{record.partition}/{record.offset}")
            continue
        if exposure.experiment == experiment:
            yield exposure
