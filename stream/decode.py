"""Decoding: a run of records of one partition becomes columns, erasures and dead letters.

A value is an Action, bare or in Confluent's schema-registry framing::

    0x00 | schema id, 4 bytes big-endian | message index: 0x00, or 0x02 0x00 (a list of one, index 0) | Action

No bare Action starts with 0x00, and Action is the first message of its file, so both are read without a
registry. A null value erases the user that the key names.

Each record is checked in the order of `DeadLetterReason`; the first thing wrong is its reason. The result
depends on the records and the rules alone (never on a clock), so every replay gives the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from lifeline.core.actions import MAX_TIMESTAMP_MS, NO_LOG_TIME, ActionBatch, pack_code
from lifeline.core.partitioner import partitions_of
from lifeline.core.user_ids import MAX_USER_ID_BYTES, is_user_id
from lifeline.core.vocabulary import Vocabulary
from lifeline.stream.action_codec import ActionColumns, read
from lifeline.stream.record import LOG_APPEND_TIME, Record, UnreadableRecords
from lifeline.stream.settings import UpdaterSettings
from lifeline.v1.action_pb2 import Action

_FRAME_BYTES = 5


class DeadLetterReason(StrEnum):
    """Why a record is a dead letter: the closed list, in the order in which it is checked."""

    UNREADABLE = "unreadable"
    """The log has bytes there that are no record: its structure, its compression or its checksum is wrong."""
    OVERSIZED = "oversized"
    """The value has more than ``updater.max_action_bytes``."""
    UNDECODABLE = "undecodable"
    """The value is not an Action."""
    INVALID_USER_ID = "invalid_user_id"
    """The key, or the action's user_id, is not 1 to 256 bytes of UTF-8."""
    KEY_MISMATCH = "key_mismatch"
    """The key is not the action's user_id."""
    MISROUTED = "misrouted"
    """The key belongs to another partition, so no reader would find the user here."""
    INVALID_TIMESTAMP = "invalid_timestamp"
    """timestamp_ms is not above 0; 0 is what an unset field reads as."""
    FAR_FUTURE = "far_future"
    """timestamp_ms lies more than ``updater.max_future_ms`` after the record's own timestamp, or after 2099."""
    UNKNOWN_ACTION_TYPE = "unknown_action_type"
    """action_type is not in the vocabulary."""
    UNKNOWN_SURFACE = "unknown_surface"
    """surface is not in the vocabulary."""


REASONS: Final = tuple(DeadLetterReason)
_CODE: Final = {reason: code for code, reason in enumerate(REASONS, start=1)}


@dataclass(frozen=True, slots=True)
class Rules:
    """What makes an action acceptable to one partition."""

    vocabulary: Vocabulary
    partitions: int
    max_action_bytes: int
    max_future_ms: int

    @classmethod
    def of(cls, vocabulary: Vocabulary, partitions: int, settings: UpdaterSettings) -> Self:
        """Return the rules of a topic with so many partitions."""
        return cls(vocabulary, partitions, settings.max_action_bytes, settings.max_future_ms)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is not applied, and why."""

    record: Record
    reason: DeadLetterReason
    message: str


@dataclass(frozen=True, slots=True)
class ActionRun:
    """Actions without an erasure between them; `offset` is the last one that applying them covers."""

    batch: ActionBatch
    offset: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """All events of a user up to `offset` go."""

    user_id: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a run of records asks of the store, in order, and what goes to the dead letters first."""

    steps: list[ActionRun | Erasure]
    """Ascending by offset; the last one covers the last record."""
    dead_letters: list[DeadLetter]
    """Ascending by offset."""
    actions: int
    """Actions in all steps."""


def decode(records: Sequence[Record], rules: Rules) -> Decoded:
    """Decode records of one partition, ascending by offset, at least one."""
    keys, values = [record.key or b"" for record in records], [record.value for record in records]
    columns = read(keys, [value or b"" for value in values])
    reason = np.zeros(len(records), np.uint8)
    erases = np.fromiter((value is None for value in values), np.bool_, len(values))
    sizes = np.fromiter((len(value or b"") for value in values), np.int64, len(values))
    oversized = sizes > rules.max_action_bytes
    long_keys = np.fromiter(map(len, keys), np.int64, len(keys)) > MAX_USER_ID_BYTES
    for at in np.flatnonzero(erases).tolist():
        if isinstance(records[at], UnreadableRecords):
            reason[at] = _CODE[DeadLetterReason.UNREADABLE]
    for at in np.flatnonzero((~columns.read | oversized | long_keys) & (reason == 0)).tolist():
        _decode_one(keys[at], values[at], at, columns, reason, oversized=bool(oversized[at]))
    _check_routes(records[0].partition, keys, rules.partitions, reason)
    record_ms = np.fromiter([record.timestamp for record in records], np.int64, len(records))
    _check_actions(record_ms, columns, erases, rules, reason)
    logged_ms = _log_times(records, record_ms)

    good = reason == 0
    item_id, timestamp_ms, action_type, surface = columns[1:]
    code = pack_code(action_type.astype(np.uint8), surface.astype(np.uint8))
    kind = rules.vocabulary.kind_of_type[action_type & np.uint32(0xFF)]

    def run(start: int, end: int) -> ActionRun:
        rows = np.flatnonzero(good[start:end]) + start
        if len(rows) == end - start:
            at: slice | NDArray[np.intp] = slice(start, end)
            users = keys[start:end]
        else:
            at, users = rows, [keys[row] for row in rows.tolist()]
        batch = ActionBatch(users, timestamp_ms[at], item_id[at], code[at], kind[at], logged_ms[at])
        return ActionRun(batch, records[end - 1].offset)

    steps: list[ActionRun | Erasure] = []
    start, count = 0, 0
    for at in np.flatnonzero(erases & good).tolist():
        if at > start:
            steps.append(run(start, at))
        steps.append(Erasure(keys[at], records[at].offset))
        start, count = at + 1, count + 1
    if start < len(records):
        steps.append(run(start, len(records)))
    dead = [
        DeadLetter(records[at], REASONS[code - 1], _message(REASONS[code - 1], records[at], rules))
        for at, code in zip(np.flatnonzero(reason).tolist(), reason[reason > 0].tolist(), strict=True)
    ]
    return Decoded(steps, dead, int(good.sum()) - count)


def _decode_one(
    key: bytes, value: bytes | None, at: int, columns: ActionColumns, reason: NDArray[np.uint8], *, oversized: bool
) -> None:
    """Decode what the columns could not, with the library, into its row; or give its reason."""
    action = Action()
    why: DeadLetterReason | None = None
    if value is not None and oversized:
        why = DeadLetterReason.OVERSIZED
    elif value is not None:
        try:
            action = Action.FromString(unframe(value))
        except DecodeError:
            why = DeadLetterReason.UNDECODABLE
    if why is None:
        user = action.user_id.encode()
        if not is_user_id(key) or not (value is None or is_user_id(user)):
            why = DeadLetterReason.INVALID_USER_ID
        elif user != key and value is not None:
            why = DeadLetterReason.KEY_MISMATCH
    if why is not None:
        reason[at] = _CODE[why]
    columns.item_id[at], columns.timestamp_ms[at] = action.item_id, action.timestamp_ms
    columns.action_type[at], columns.surface[at] = action.action_type, action.surface


def unframe(value: bytes) -> bytes:
    """Return the message inside the schema-registry framing, or the value itself when it has none.

    Raises DecodeError when the framing is cut short or names another message than the file's first.
    """
    if value[:1] != b"\x00":
        return value
    if value[_FRAME_BYTES : _FRAME_BYTES + 1] == b"\x00":
        return value[_FRAME_BYTES + 1 :]
    if value[_FRAME_BYTES : _FRAME_BYTES + 2] == b"\x02\x00":
        return value[_FRAME_BYTES + 2 :]
    raise DecodeError("the schema-registry framing does not name the first message of its schema")


def _check_routes(partition: int, keys: list[bytes], partitions: int, reason: NDArray[np.uint8]) -> None:
    if reason.any():
        # Keys of any length may be among them, and those that have a reason need no route.
        rows = np.flatnonzero(reason == 0)
        wrong = rows[partitions_of([keys[row] for row in rows.tolist()], partitions) != partition]
    else:
        wrong = np.flatnonzero(partitions_of(keys, partitions) != partition)
    reason[wrong] = _CODE[DeadLetterReason.MISROUTED]


def _log_times(records: Sequence[Record], record_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64[n]: when the log took each record; NO_LOG_TIME for a time that its producer gave, or none."""
    types = [record.timestamp_type for record in records]
    if types.count(LOG_APPEND_TIME) == len(types):
        return record_ms
    return np.where(np.array([kind == LOG_APPEND_TIME for kind in types]), record_ms, NO_LOG_TIME)


def _check_actions(
    record_ms: NDArray[np.int64],
    columns: ActionColumns,
    erases: NDArray[np.bool_],
    rules: Rules,
    reason: NDArray[np.uint8],
) -> None:
    timestamp_ms, action_type, surface = columns.timestamp_ms, columns.action_type, columns.surface
    top = np.uint32(0xFFFF)
    # No overflow: what is not above 0 has its reason already when the difference is looked at.
    checks = (
        (DeadLetterReason.INVALID_TIMESTAMP, timestamp_ms <= 0),
        (
            DeadLetterReason.FAR_FUTURE,
            (timestamp_ms > MAX_TIMESTAMP_MS)
            | ((timestamp_ms > 0) & (record_ms >= 0) & (timestamp_ms - record_ms > rules.max_future_ms)),
        ),
        (
            DeadLetterReason.UNKNOWN_ACTION_TYPE,
            (action_type > top) | ~rules.vocabulary.known_action_types[action_type & top],
        ),
        (DeadLetterReason.UNKNOWN_SURFACE, (surface > top) | ~rules.vocabulary.known_surfaces[surface & top]),
    )
    for why, wrong in checks:
        reason[wrong & ~erases & (reason == 0)] = _CODE[why]


def _message(reason: DeadLetterReason, record: Record, rules: Rules) -> str:
    """Return a sentence for whoever looks at the dead letter."""
    if isinstance(record, UnreadableRecords):
        return record.why
    try:
        action = Action.FromString(unframe(record.value or b""))
    except DecodeError:
        action = Action()
    if action.timestamp_ms > MAX_TIMESTAMP_MS:
        ahead = f"{action.timestamp_ms}, after the year 2099 ({MAX_TIMESTAMP_MS})"
    else:
        ahead = f"{action.timestamp_ms}, more than {rules.max_future_ms} ms after the record's own {record.timestamp}"
    return {
        DeadLetterReason.OVERSIZED: f"the value has {len(record.value or b'')} bytes, above {rules.max_action_bytes}",
        DeadLetterReason.UNDECODABLE: "the value is not a lifeline.v1.Action, bare or in schema-registry framing",
        DeadLetterReason.INVALID_USER_ID: f"the user id is not 1 to {MAX_USER_ID_BYTES} bytes of UTF-8",
        DeadLetterReason.KEY_MISMATCH: f"the key is not the action's user_id {action.user_id!r}",
        DeadLetterReason.MISROUTED: f"the key does not belong to partition {record.partition} of {rules.partitions}",
        DeadLetterReason.INVALID_TIMESTAMP: f"timestamp_ms is {action.timestamp_ms}, and must be above 0",
        DeadLetterReason.FAR_FUTURE: f"timestamp_ms is {ahead}",
        DeadLetterReason.UNKNOWN_ACTION_TYPE: f"action_type {action.action_type} is not in the vocabulary",
        DeadLetterReason.UNKNOWN_SURFACE: f"surface {action.surface} is not in the vocabulary",
    }[reason]
