"""Which dead letters are older than an erasure of their user, as far as the log of actions says.

An erasure is a null value in the user's own partition. Where the letter's record came from that partition, every
erasure behind it counts. For a record of another partition the offsets say nothing, so its time decides, if the log
gave it. Of any other letter nothing says that it is newer than an erasure, and so every one counts.

The log is read once, from the first offset that matters to a letter to its end, in the partitions of their users.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum, auto
from typing import NamedTuple

from google.protobuf.message import DecodeError

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.user_ids import is_user_id
from lifeline.stream.dead_letter_headers import Origin
from lifeline.stream.decode import unframe
from lifeline.stream.record import Record
from lifeline.stream.topic_reader import TopicReader
from lifeline.v1.action_pb2 import Action

# The brokers of two partitions may have clocks that differ by so much.
_CLOCKS_MS = 600_000
_REFRESH_S = 1.0


class Later(Enum):
    """What the log holds of a letter's user behind the letter."""

    NO_ERASURE = auto()
    ERASURE = auto()
    """Or nothing says that the letter is newer than an erasure that is there."""
    UNKNOWN = auto()
    """It does not go back to the letter any more, and has no erasure."""


class Mark(NamedTuple):
    """From where on an erasure of a user comes after a letter."""

    place: tuple[int, bytes]
    """The user's partition, and the user."""
    offset: int
    is_there: bool
    """Whether the log still holds everything from there on."""


class LaterErasures:
    """Tell it the marks of every letter (`expect`), `read`, then ask (`of`). The reader is its alone."""

    def __init__(self, kafka: KafkaSettings, log: TopicReader) -> None:
        """`log` reads the actions topic. Raises TopicMismatchError when that is not there."""
        self._kafka, self._log = kafka, log
        self._bounds = {number: log.bounds(number) for number in log.partitions(range(kafka.partitions))}
        self._next: dict[int, int] = {}
        self._erased: dict[tuple[int, bytes], int] = {}
        """By partition and user the offset of the last erasure, -1 for none."""
        self._at: dict[tuple[int, int], int] = {}
        self._read_at = 0.0

    def marks(self, record: Record, origin: Origin | None) -> tuple[Mark, ...]:
        """Return a mark for every user whom a letter could bring back, or names."""
        return tuple(self._mark(user, origin) for user in _users(record))

    def expect(self, marks: Iterable[Mark]) -> None:
        """Say that `of` will be asked for these."""
        for mark in marks:
            self._erased[mark.place] = -1
            number = mark.place[0]
            first = max(mark.offset, self._bounds[number][0])
            self._next[number] = min(first, self._next.get(number, first))

    def read(self) -> None:
        """Read the log to where it ends now; the first time from where the letters need it."""
        for number, first in self._next.items():
            end = self._log.bounds(number)[1]
            for record in self._log.records(number, first, end):
                if record.value is None and (place := (number, record.key or b"")) in self._erased:
                    self._erased[place] = record.offset
            self._next[number] = max(first, end)
        self._read_at = time.monotonic()

    def of(self, marks: Iterable[Mark]) -> Later:
        """Return what the log holds behind a letter; it is read on when that was a second ago."""
        if time.monotonic() - self._read_at > _REFRESH_S:
            self.read()
        marks = list(marks)
        if any(self._erased[mark.place] >= mark.offset for mark in marks):
            return Later.ERASURE
        return Later.NO_ERASURE if all(mark.is_there for mark in marks) else Later.UNKNOWN

    def overtaken(self, marks: Iterable[Mark], partition: int, offset: int) -> bool:
        """Say whether an erasure that was read stands between a letter and where it was published again."""
        return any(mark.place[0] == partition and mark.offset <= self._erased[mark.place] < offset for mark in marks)

    def _mark(self, user: bytes, origin: Origin | None) -> Mark:
        number = partition_of(user, self._kafka.partitions)
        place = number, user
        start, end = self._bounds[number]
        if origin is None or origin.topic != self._kafka.actions_topic:
            return Mark(place, 0, start == 0)
        by_time = origin.log_time and origin.timestamp_ms >= 0
        if origin.partition == number and 0 <= origin.offset < end:
            since = origin.offset + 1
            if by_time:
                # A topic that was deleted and made anew has other records at these offsets, all of them later.
                since = min(since, self._offset_at(number, origin.timestamp_ms + 1))
            return Mark(place, since, since >= start)
        if not by_time:
            return Mark(place, 0, start == 0)
        since = self._offset_at(number, origin.timestamp_ms - _CLOCKS_MS)
        # At the very start nothing says that the log goes back so far.
        return Mark(place, since, since > start or start == 0)

    def _offset_at(self, partition: int, timestamp_ms: int) -> int:
        at = partition, max(0, timestamp_ms)
        if at not in self._at:
            self._at[at] = self._log.offset_at(*at)
        return self._at[at]


def _users(record: Record) -> set[bytes]:
    """Return whom a letter could bring back, or name: the key, and the user of the action. An erasure does neither."""
    if record.value is None:
        return set()
    users = {record.key or b""}
    with suppress(DecodeError):
        users.add(Action.FromString(unframe(record.value)).user_id.encode())
    return set(filter(is_user_id, users))
