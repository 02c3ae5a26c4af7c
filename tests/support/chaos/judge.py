"""The judge: what a topic must have led to, found by another way than the product's.

It reads the log with kafka-python, one record at a time, and keeps each sequence as a sorted list in plain Python.
Of the product it uses the wire contract and the numbers of the settings; the rules are those of docs/store-format.md
and of the dead letters' list, written down a second time. XXH3 comes from its library, MurmurHash3 stands below.

A verdict is kept for every offset, so that a store may be compared wherever it stands: one that died in the middle
of the log, and one whose partition went to another node long ago.
"""

import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import xxhash
from google.protobuf.message import DecodeError
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from lifeline.config import Settings
from lifeline.v1.action_pb2 import Action

_M128 = (1 << 128) - 1
_M64 = (1 << 64) - 1
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
_HOUR_MS = 3_600_000
_LAST_HOUR = (1 << 32) - 1
_YEAR_2100_MS = 4_102_444_800_000
_OF_THE_LOG = 1
_POLL_MS = 500
_EMPTY_POLLS = 120

Event = tuple[int, int, int]
"""An identity: timestamp_ms, item_id, code. Tuples compare in the order of a sequence."""


class LogRecord(Protocol):
    """What the judge needs of a record; kafka-python's fits."""

    @property
    def offset(self) -> int: ...

    @property
    def timestamp(self) -> int: ...

    @property
    def timestamp_type(self) -> int: ...

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...


class Verdict(NamedTuple):
    """What a partition must hold at one offset."""

    events: int
    fingerprint: int


class Law(NamedTuple):
    """The settings that the state is a function of, besides the log."""

    partitions: int
    caps: tuple[int, int]
    age_hours: tuple[int | None, int | None]
    kind_of_type: dict[int, int]
    surfaces: frozenset[int]
    max_action_bytes: int
    max_future_ms: int

    @classmethod
    def of(cls, settings: Settings) -> "Law":
        store, words = settings.store, settings.vocabulary
        ages = (store.max_explicit_age_days, store.max_impression_age_days)
        return cls(
            settings.kafka.partitions,
            (store.max_explicit, store.max_impressions),
            (ages[0] and 24 * ages[0], ages[1] and 24 * ages[1]),
            {
                action_type.id: int(action_type.role.value == "impression")
                for action_type in words.action_types.values()
            },
            frozenset({0, *words.surfaces.values()}),
            settings.updater.max_action_bytes,
            settings.updater.max_future_ms,
        )


@dataclass
class PartitionJudge:
    """One partition, record by record."""

    law: Law
    partition: int
    sequences: dict[tuple[bytes, int], list[Event]] = field(default_factory=lambda: defaultdict(list))
    watermark_ms: int = 0
    events: int = 0
    fingerprint: int = 0
    offsets: list[int] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    dead: dict[int, str] = field(default_factory=dict)
    """Offset to reason of what must have become a dead letter."""

    def take(self, record: LogRecord) -> None:
        key = record.key or b""
        action, why = self._read(record, key)
        if why:
            self.dead[record.offset] = why
        elif action is None:
            for kind in (0, 1):
                for event in self.sequences.pop((key, kind), []):
                    self._count(key, kind, event, -1)
        else:
            self._insert(key, action, record.timestamp if record.timestamp_type == _OF_THE_LOG else -1)
        self.offsets.append(record.offset)
        self.verdicts.append(Verdict(self.events, self.fingerprint))

    def at(self, offset: int) -> Verdict:
        """Return what is right once everything up to `offset` is applied."""
        before = bisect_right(self.offsets, offset)
        return self.verdicts[before - 1] if before else Verdict(0, 0)

    def _read(self, record: LogRecord, key: bytes) -> tuple[Action | None, str]:
        action, why = None, ""
        if record.value is not None:
            if len(record.value) > self.law.max_action_bytes:
                return None, "oversized"
            action = parsed(record.value)
            if action is None:
                return None, "undecodable"
        user = key if action is None else action.user_id.encode()
        if not (is_user_id(key) and is_user_id(user)):
            why = "invalid_user_id"
        elif key != user:
            why = "key_mismatch"
        elif (murmur2(key) & 0x7FFFFFFF) % self.law.partitions != self.partition:
            why = "misrouted"
        elif action is not None:
            if action.timestamp_ms <= 0:
                why = "invalid_timestamp"
            elif action.timestamp_ms > _YEAR_2100_MS or (
                record.timestamp >= 0 and action.timestamp_ms - record.timestamp > self.law.max_future_ms
            ):
                why = "far_future"
            elif action.action_type not in self.law.kind_of_type:
                why = "unknown_action_type"
            elif action.surface not in self.law.surfaces:
                why = "unknown_surface"
        return action, why

    def _insert(self, key: bytes, action: Action, logged_ms: int) -> None:
        kind = self.law.kind_of_type[action.action_type]
        reached_ms = min(action.timestamp_ms, logged_ms)
        if reached_ms > self.watermark_ms:
            before, self.watermark_ms = self.watermark_ms, reached_ms
            if before // _HOUR_MS != self.watermark_ms // _HOUR_MS:
                for sequence_key, sequence_kind in self.sequences:
                    self._expire(sequence_key, sequence_kind)
        event = (action.timestamp_ms, action.item_id, action.action_type << 8 | action.surface)
        sequence = self.sequences[key, kind]
        at = bisect_left(sequence, event)
        if at < len(sequence) and sequence[at] == event:
            return
        sequence.insert(at, event)
        self._count(key, kind, event, 1)
        self._expire(key, kind)
        if len(sequence) > self.law.caps[kind]:
            self._count(key, kind, sequence.pop(0), -1)

    def _expire(self, key: bytes, kind: int) -> None:
        age, hour = self.law.age_hours[kind], min(self.watermark_ms // _HOUR_MS, _LAST_HOUR)
        if age is None or hour <= age:
            return
        sequence = self.sequences[key, kind]
        gone = bisect_left(sequence, ((hour - age) * _HOUR_MS, 0, 0))
        for event in sequence[:gone]:
            self._count(key, kind, event, -1)
        del sequence[:gone]

    def _count(self, key: bytes, kind: int, event: Event, sign: int) -> None:
        self.events += sign
        self.fingerprint = (self.fingerprint + sign * event_hash(key, kind, event)) & _M128


class Judge:
    """Follows a whole topic; it only ever goes forward."""

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.kafka
        law = Law.of(settings)
        self.partitions = [PartitionJudge(law, number) for number in range(law.partitions)]
        self._next: dict[int, int] = {}

    def read(self) -> dict[int, int]:
        """Read on to the log's present ends, and return them."""
        tps = [TopicPartition(self._kafka.actions_topic, number) for number in range(len(self.partitions))]
        consumer = reader(self._kafka.servers)
        try:
            consumer.assign(tps)
            ends: dict[int, int] = {tp.partition: end for tp, end in consumer.end_offsets(tps).items()}
            # Where retention has been, the log is judged from where it starts.
            starts = {tp.partition: start for tp, start in consumer.beginning_offsets(tps).items()}
            for tp in tps:
                consumer.seek(tp, max(self._next.get(tp.partition, 0), starts[tp.partition]))
            empty = 0
            while any(consumer.position(tp) < ends[tp.partition] for tp in tps):
                fetched = consumer.poll(timeout_ms=_POLL_MS)
                empty = 0 if fetched else empty + 1
                assert empty < _EMPTY_POLLS, f"the log of {self._kafka.actions_topic} is not to be had up to {ends}"
                for tp, records in fetched.items():
                    for record in records:
                        self.partitions[tp.partition].take(record)
            self._next = {tp.partition: consumer.position(tp) for tp in tps}
        finally:
            consumer.close()
        return ends

    def at(self, partition: int, offset: int) -> Verdict:
        """Return what partition must hold at an offset that has been read."""
        assert offset < self._next.get(partition, 0), f"offset {offset} of partition {partition} has not been read"
        return self.partitions[partition].at(offset)


def reader(servers: list[str]) -> Any:
    """Return a consumer without a group that reads from the start."""
    return KafkaConsumer(
        bootstrap_servers=servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=5_000,
        max_partition_fetch_bytes=8 << 20,
        isolation_level="read_committed",
    )


def parsed(value: bytes) -> Action | None:
    """Read an Action, bare or in the schema registry's framing; None where it is none."""
    if value[:1] == b"\x00":
        if value[5:6] == b"\x00":
            value = value[6:]
        elif value[5:7] == b"\x02\x00":
            value = value[7:]
        else:
            return None
    try:
        return Action.FromString(value)
    except DecodeError:
        return None


def is_user_id(key: bytes) -> bool:
    """Say whether it is 1 to 256 bytes of UTF-8."""
    try:
        return 1 <= len(key) <= 256 and bool(key.decode())
    except UnicodeDecodeError:
        return False


def event_hash(user: bytes, kind: int, event: Event) -> int:
    """Return the 128-bit hash of one event: MurmurHash3_x64_128 with seed 0 of its 48 bytes."""
    timestamp_ms, item_id, code = event
    words = struct.unpack("<6Q", xxhash.xxh3_128_digest(user) + struct.pack("<qQQQ", timestamp_ms, item_id, kind, code))
    h1 = h2 = 0
    for k1, k2 in zip(words[::2], words[1::2], strict=True):
        h1 ^= rotated(k1 * _C1 & _M64, 31) * _C2 & _M64
        h1 = ((rotated(h1, 27) + h2) * 5 + 0x52DCE729) & _M64
        h2 ^= rotated(k2 * _C2 & _M64, 33) * _C1 & _M64
        h2 = ((rotated(h2, 31) + h1) * 5 + 0x38495AB5) & _M64
    h1, h2 = h1 ^ 48, h2 ^ 48
    h1 = (h1 + h2) & _M64
    h2 = (h2 + h1) & _M64
    h1, h2 = mixed(h1), mixed(h2)
    h1 = (h1 + h2) & _M64
    h2 = (h2 + h1) & _M64
    return h1 | h2 << 64


def rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _M64


def mixed(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _M64
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _M64
    return word ^ word >> 33
