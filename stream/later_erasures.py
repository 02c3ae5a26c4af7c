"""Finds the dead letters whose user was erased later, so that a retry does not bring the user back.

An erasure is a null value in the user's own partition of the actions topic. Which erasures count as later than a letter
depends on where the letter's record was:

- in the user's own partition: the erasures at higher offsets;
- in another partition, with a time that the log gave: the erasures at or after that time, with a tolerance for the
  clocks of brokers;
- anywhere else: all erasures of the user, because nothing shows that the letter is newer.

The log is read once, in the partitions of the letters' users, from the first offset that matters to its end.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum, auto
from typing import NamedTuple

from google.protobuf.message import DecodeError

from lifeline.core.kafka_errors import TopicMismatchError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.user_ids import is_user_id
from lifeline.stream.dead_letter_headers import Origin
from lifeline.stream.decode import unframe
from lifeline.stream.record import Record
from lifeline.stream.topic_reader import TopicReader
from lifeline.v1.action_pb2 import Action

# The clocks of two brokers may differ by this much.
_CLOCK_TOLERANCE_MS = 600_000
_REFRESH_S = 1.0


class ErasureStatus(Enum):
    """Whether an erasure of its user counts against a letter."""

    NONE = auto()
    ERASED = auto()
    """There is a later erasure, or one of which nothing shows that the letter is newer."""
    UNKNOWN = auto()
    """The log holds no such erasure, but no longer reaches back to the letter."""


class ErasureWindow(NamedTuple):
    """The part of the log in which an erasure of a user counts against a letter."""

    user: tuple[int, bytes]
    """The user's partition, and the user id."""
    start: int
    """The first offset; the window ends where the log does."""
    is_complete: bool
    """Whether the log still holds everything from there on."""


class LaterErasures:
    """Call `expect` with the windows of every letter, then `read`, then `status` for each letter.

    It needs a `TopicReader` of its own.
    """

    def __init__(self, kafka: KafkaSettings, log: TopicReader) -> None:
        """`log` reads the actions topic. Raises TopicMismatchError when it has not ``kafka.partitions`` partitions."""
        self._kafka, self._log = kafka, log
        if (found := len(log.partitions())) != kafka.partitions:
            raise TopicMismatchError(
                f"topic {kafka.actions_topic} has {found} partitions, and kafka.partitions is {kafka.partitions}: a "
                "user's erasures may be in other partitions than those that would be searched. Set kafka.partitions to "
                f"{found} if the topic has had as many since its first record; if partitions were added to it, retry "
                "the letters after the copy that docs/runbook.md describes (LifelinePartitionsAdded)"
            )
        self._bounds = {number: log.bounds(number) for number in log.partitions(range(kafka.partitions))}
        self._next: dict[int, int] = {}
        """By partition the offset to read next."""
        self._last_erasure: dict[tuple[int, bytes], int] = {}
        """By partition and user the offset of the last erasure, -1 for none."""
        self._offsets: dict[tuple[int, int], int] = {}
        """By partition and time the first offset at or after that time."""
        self._read_at = 0.0

    def windows(self, record: Record, origin: Origin | None) -> tuple[ErasureWindow, ...]:
        """Return a window for every user whom a letter names or could bring back."""
        return tuple(self._window(user, origin) for user in _users(record))

    def expect(self, windows: Iterable[ErasureWindow]) -> None:
        """Register the windows that `status` will be asked for; `read` covers them."""
        for window in windows:
            self._last_erasure[window.user] = -1
            number = window.user[0]
            first = max(window.start, self._bounds[number][0])
            self._next[number] = min(first, self._next.get(number, first))

    def read(self) -> None:
        """Read the log to its present end: the first time from the earliest window, later from where it stopped."""
        for number, first in self._next.items():
            end = self._log.bounds(number)[1]
            for record in self._log.records(number, first, end):
                if record.value is None and (user := (number, record.key or b"")) in self._last_erasure:
                    self._last_erasure[user] = record.offset
            self._next[number] = max(first, end)
        self._read_at = time.monotonic()

    def status(self, windows: Iterable[ErasureWindow]) -> ErasureStatus:
        """Return whether a letter with these windows was erased, at most a second out of date."""
        if time.monotonic() - self._read_at > _REFRESH_S:
            self.read()
        windows = list(windows)
        if any(self._last_erasure[window.user] >= window.start for window in windows):
            return ErasureStatus.ERASED
        return ErasureStatus.NONE if all(window.is_complete for window in windows) else ErasureStatus.UNKNOWN

    def is_overtaken(self, windows: Iterable[ErasureWindow], partition: int, offset: int) -> bool:
        """Return whether an erasure lies between a letter and the place where it was published again."""
        return any(
            window.user[0] == partition and window.start <= self._last_erasure[window.user] < offset
            for window in windows
        )

    def _window(self, user_id: bytes, origin: Origin | None) -> ErasureWindow:
        number = partition_of(user_id, self._kafka.partitions)
        user = number, user_id
        log_start, log_end = self._bounds[number]
        whole_log = ErasureWindow(user, 0, log_start == 0)
        if origin is None or origin.topic != self._kafka.actions_topic:
            return whole_log
        has_log_time = origin.is_log_time and origin.timestamp_ms >= 0
        if origin.partition == number and 0 <= origin.offset < log_end:
            start = origin.offset + 1
            if has_log_time:
                # In a topic that was deleted and created again, other and later records have these offsets.
                start = min(start, self._offset_at(number, origin.timestamp_ms + 1))
            return ErasureWindow(user, start, start >= log_start)
        if not has_log_time:
            return whole_log
        start = self._offset_at(number, origin.timestamp_ms - _CLOCK_TOLERANCE_MS)
        # When the window starts with the log, earlier records of that time may be gone.
        return ErasureWindow(user, start, start > log_start or log_start == 0)

    def _offset_at(self, partition: int, timestamp_ms: int) -> int:
        key = partition, max(0, timestamp_ms)
        if key not in self._offsets:
            self._offsets[key] = self._log.offset_at(*key)
        return self._offsets[key]


def _users(record: Record) -> set[bytes]:
    """Return the users whom a letter names or could bring back: its key, and the action's user; none for an erasure."""
    if record.value is None:
        return set()
    users = {record.key or b""}
    with suppress(DecodeError):
        users.add(Action.FromString(unframe(record.value)).user_id.encode())
    return set(filter(is_user_id, users))
