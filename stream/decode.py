"""Decodes records of one partition into columns of actions, erasures and dead letters.

A value is an Action, bare or in Confluent's schema-registry framing::

    0x00 | schema id, 4 bytes big-endian | message index: 0x00, or 0x02 0x00 (a list of one, index 0) | Action

No bare Action starts with 0x00, and Action is the first message of its file, so both forms are read without a registry.
A null value erases the user that the key names.

Each record is checked in the order of `DeadLetterReason`; the first check that fails gives the reason. The result
depends only on the records and the rules, never on a clock, so every replay gives the same result.
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
from lifeline.stream.action_codec import ActionColumns, parse_actions
from lifeline.stream.record import LOG_APPEND_TIME, Record, UnreadableRecords
from lifeline.stream.settings import UpdaterSettings
from lifeline.v1.action_pb2 import Action

_FRAME_BYTES = 5


class DeadLetterReason(StrEnum):
    """Why a record is a dead letter. The list is complete, and in the order of the checks."""

    UNREADABLE = "unreadable"
    """The bytes in the log are no valid record: the structure, the compression or the checksum is wrong."""
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
    """timestamp_ms is not above 0; an unset field reads as 0."""
    FAR_FUTURE = "far_future"
    """timestamp_ms is more than ``updater.max_future_ms`` after the record's own timestamp, or after 2099."""
    UNKNOWN_ACTION_TYPE = "unknown_action_type"
    """action_type is not in the vocabulary."""
    UNKNOWN_SURFACE = "unknown_surface"
    """surface is not in the vocabulary."""


REASONS: Final = tuple(DeadLetterReason)
_CODE: Final = {reason: code for code, reason in enumerate(REASONS, start=1)}


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide whether a record is applied or becomes a dead letter."""

    vocabulary: Vocabulary
    partitions: int
    max_action_bytes: int
    max_future_ms: int

    @classmethod
    def of(cls, vocabulary: Vocabulary, partitions: int, settings: UpdaterSettings) -> Self:
        """Return the rules of a topic with `partitions` partitions."""
        return cls(vocabulary, partitions, settings.max_action_bytes, settings.max_future_ms)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is not applied, and the reason."""

    record: Record
    reason: DeadLetterReason
    message: str


@dataclass(frozen=True, slots=True)
class ActionRun:
    """Actions without an erasure between them; applying them moves the applied offset to `offset`."""

    batch: ActionBatch
    offset: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """Removes all events of a user up to `offset`."""

    user_id: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """The steps to apply to the store, and the dead letters to publish before."""

    steps: list[ActionRun | Erasure]
    """Ascending by offset; the offset of the last step is that of the last record."""
    dead_letters: list[DeadLetter]
    """Ascending by offset."""
    actions: int
    """The number of actions in all steps."""


def decode(records: Sequence[Record], rules: Rules) -> DecodedBatch:
    """Decode records of one partition: at least one, ascending by offset."""
    keys, values = [record.key or b"" for record in records], [record.value for record in records]
    columns = parse_actions(keys, [value or b"" for value in values])
    reason_code = np.zeros(len(records), np.uint8)
    is_erasure = np.fromiter((value is None for value in values), np.bool_, len(values))
    sizes = np.fromiter((len(value or b"") for value in values), np.int64, len(values))
    is_oversized = sizes > rules.max_action_bytes
    has_long_key = np.fromiter(map(len, keys), np.int64, len(keys)) > MAX_USER_ID_BYTES
    for row in np.flatnonzero(is_erasure).tolist():
        if isinstance(records[row], UnreadableRecords):
            reason_code[row] = _CODE[DeadLetterReason.UNREADABLE]
    for row in np.flatnonzero((~columns.is_parsed | is_oversized | has_long_key) & (reason_code == 0)).tolist():
        _decode_row(keys[row], values[row], row, columns, reason_code, is_oversized=bool(is_oversized[row]))
    _check_routes(records[0].partition, keys, rules.partitions, reason_code)
    record_ms = np.fromiter([record.timestamp for record in records], np.int64, len(records))
    _check_actions(record_ms, columns, is_erasure, rules, reason_code)
    logged_ms = _log_times(records, record_ms)

    is_valid = reason_code == 0
    item_id, timestamp_ms, action_type, surface = columns[1:]
    code = pack_code(action_type.astype(np.uint8), surface.astype(np.uint8))
    kind = rules.vocabulary.kind_of_type[action_type & np.uint32(0xFF)]

    def run(start: int, end: int) -> ActionRun:
        valid_rows = np.flatnonzero(is_valid[start:end]) + start
        if len(valid_rows) == end - start:
            rows: slice | NDArray[np.intp] = slice(start, end)
            users = keys[start:end]
        else:
            rows, users = valid_rows, [keys[row] for row in valid_rows.tolist()]
        batch = ActionBatch(users, timestamp_ms[rows], item_id[rows], code[rows], kind[rows], logged_ms[rows])
        return ActionRun(batch, records[end - 1].offset)

    steps: list[ActionRun | Erasure] = []
    start, erasures = 0, 0
    for row in np.flatnonzero(is_erasure & is_valid).tolist():
        if row > start:
            steps.append(run(start, row))
        steps.append(Erasure(keys[row], records[row].offset))
        start, erasures = row + 1, erasures + 1
    if start < len(records):
        steps.append(run(start, len(records)))
    dead_letters = []
    for row in np.flatnonzero(reason_code).tolist():
        reason = REASONS[reason_code[row] - 1]
        dead_letters.append(DeadLetter(records[row], reason, _message(reason, records[row], rules)))
    return DecodedBatch(steps, dead_letters, int(is_valid.sum()) - erasures)


def _decode_row(
    key: bytes,
    value: bytes | None,
    row: int,
    columns: ActionColumns,
    reason_code: NDArray[np.uint8],
    *,
    is_oversized: bool,
) -> None:
    """Decode a record that `parse_actions` left out, with the protobuf library: set its row, or its reason."""
    action = Action()
    reason: DeadLetterReason | None = None
    if value is not None and is_oversized:
        reason = DeadLetterReason.OVERSIZED
    elif value is not None:
        try:
            action = Action.FromString(unframe(value))
        except DecodeError:
            reason = DeadLetterReason.UNDECODABLE
    if reason is None:
        user = action.user_id.encode()
        if not is_user_id(key) or not (value is None or is_user_id(user)):
            reason = DeadLetterReason.INVALID_USER_ID
        elif user != key and value is not None:
            reason = DeadLetterReason.KEY_MISMATCH
    if reason is not None:
        reason_code[row] = _CODE[reason]
    columns.item_id[row], columns.timestamp_ms[row] = action.item_id, action.timestamp_ms
    columns.action_type[row], columns.surface[row] = action.action_type, action.surface


def unframe(value: bytes) -> bytes:
    """Return the message inside the schema-registry framing, or the value itself when it has no framing.

    Raises DecodeError when the framing is truncated, or does not name the first message of the schema's file.
    """
    if value[:1] != b"\x00":
        return value
    if value[_FRAME_BYTES : _FRAME_BYTES + 1] == b"\x00":
        return value[_FRAME_BYTES + 1 :]
    if value[_FRAME_BYTES : _FRAME_BYTES + 2] == b"\x02\x00":
        return value[_FRAME_BYTES + 2 :]
    raise DecodeError("the schema-registry framing does not name the first message of its schema")


def _check_routes(partition: int, keys: list[bytes], partitions: int, reason_code: NDArray[np.uint8]) -> None:
    if reason_code.any():
        # Leave out the records that have a reason: their keys may be of any length.
        rows = np.flatnonzero(reason_code == 0)
        misrouted = rows[partitions_of([keys[row] for row in rows.tolist()], partitions) != partition]
    else:
        misrouted = np.flatnonzero(partitions_of(keys, partitions) != partition)
    reason_code[misrouted] = _CODE[DeadLetterReason.MISROUTED]


def _log_times(records: Sequence[Record], record_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the log's time of each record, int64[n]; NO_LOG_TIME where the producer set the time, or nobody did."""
    types = [record.timestamp_type for record in records]
    if types.count(LOG_APPEND_TIME) == len(types):
        return record_ms
    is_log_time = np.array([timestamp_type == LOG_APPEND_TIME for timestamp_type in types])
    return np.where(is_log_time, record_ms, NO_LOG_TIME)


def _check_actions(
    record_ms: NDArray[np.int64],
    columns: ActionColumns,
    is_erasure: NDArray[np.bool_],
    rules: Rules,
    reason_code: NDArray[np.uint8],
) -> None:
    timestamp_ms, action_type, surface = columns.timestamp_ms, columns.action_type, columns.surface
    max_id = np.uint32(0xFFFF)
    # An overflow of the difference has no effect: it counts only where both times are at or above 0.
    checks = (
        (DeadLetterReason.INVALID_TIMESTAMP, timestamp_ms <= 0),
        (
            DeadLetterReason.FAR_FUTURE,
            (timestamp_ms > MAX_TIMESTAMP_MS)
            | ((timestamp_ms > 0) & (record_ms >= 0) & (timestamp_ms - record_ms > rules.max_future_ms)),
        ),
        (
            DeadLetterReason.UNKNOWN_ACTION_TYPE,
            (action_type > max_id) | ~rules.vocabulary.known_action_types[action_type & max_id],
        ),
        (DeadLetterReason.UNKNOWN_SURFACE, (surface > max_id) | ~rules.vocabulary.known_surfaces[surface & max_id]),
    )
    for reason, fails in checks:
        reason_code[fails & ~is_erasure & (reason_code == 0)] = _CODE[reason]


def _message(reason: DeadLetterReason, record: Record, rules: Rules) -> str:
    """Return a sentence that explains the dead letter to an operator."""
    if isinstance(record, UnreadableRecords):
        return record.why
    try:
        action = Action.FromString(unframe(record.value or b""))
    except DecodeError:
        action = Action()
    if action.timestamp_ms > MAX_TIMESTAMP_MS:
        far_future = f"{action.timestamp_ms}, after the year 2099 ({MAX_TIMESTAMP_MS})"
    else:
        far_future = (
            f"{action.timestamp_ms}, more than {rules.max_future_ms} ms after the record's own {record.timestamp}"
        )
    return {
        DeadLetterReason.OVERSIZED: f"the value has {len(record.value or b'')} bytes, above {rules.max_action_bytes}",
        DeadLetterReason.UNDECODABLE: "the value is not a lifeline.v1.Action, bare or in schema-registry framing",
        DeadLetterReason.INVALID_USER_ID: f"the user id is not 1 to {MAX_USER_ID_BYTES} bytes of UTF-8",
        DeadLetterReason.KEY_MISMATCH: f"the key is not the action's user_id {action.user_id!r}",
        DeadLetterReason.MISROUTED: f"the key does not belong to partition {record.partition} of {rules.partitions}",
        DeadLetterReason.INVALID_TIMESTAMP: f"timestamp_ms is {action.timestamp_ms}, and must be above 0",
        DeadLetterReason.FAR_FUTURE: f"timestamp_ms is {far_future}",
        DeadLetterReason.UNKNOWN_ACTION_TYPE: f"action_type {action.action_type} is not in the vocabulary",
        DeadLetterReason.UNKNOWN_SURFACE: f"surface {action.surface} is not in the vocabulary",
    }[reason]
