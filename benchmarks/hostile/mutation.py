"""Mutations of valid bytes, and messages with field values at the limits."""

import random
from collections.abc import Callable
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

NUMBERS: Final = (0, 1, 2, -1, 127, 128, 255, 1 << 16, (1 << 31) - 1, -(1 << 31), (1 << 32) - 1, 1 << 62, (1 << 63) - 1)
TEXTS: Final = ("", "u", "a" * 256, "a" * 257, "\x00", "../../etc/passwd", "\N{PILE OF POO}" * 64, "honest-000")
_HUGE_VARINT: Final = b"\xff" * 9 + b"\x01"
_OVERLONG_VARINT: Final = b"\xff" * 11
_DEPTH: Final = 10_000
_NESTED: Final = b"\x3b" * _DEPTH + b"\x3c" * _DEPTH
"""Nested groups of an unknown field."""
_FLOATS: Final = frozenset({FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE})
_LIMITS: Final = {
    FieldDescriptor.TYPE_BOOL: (0, 2),
    FieldDescriptor.TYPE_ENUM: (-(1 << 31), 1 << 31),
    FieldDescriptor.TYPE_INT32: (-(1 << 31), 1 << 31),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), 1 << 63),
    FieldDescriptor.TYPE_UINT32: (0, 1 << 32),
    FieldDescriptor.TYPE_UINT64: (0, 1 << 64),
    FieldDescriptor.TYPE_FIXED64: (0, 1 << 64),
}
"""The least number of field type in the protos, and the first number above its range."""


def _flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    return data * rng.choice((2, 3, 50))


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((_HUGE_VARINT, _OVERLONG_VARINT, bytes(8), rng.randbytes(8))) + data[at:]


def _nest(rng: random.Random, data: bytes) -> bytes:
    return data + _NESTED[: rng.choice((_DEPTH // 2, _DEPTH, 2 * _DEPTH))]


def _append_unknown(rng: random.Random, data: bytes) -> bytes:
    return data + b"\xfa\x7f" + bytes([100]) + rng.randbytes(100)


def _replace(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(len(data))


MUTATIONS: Final[tuple[Callable[[random.Random, bytes], bytes], ...]] = (
    _flip,
    _truncate,
    _repeat,
    _insert,
    _nest,
    _append_unknown,
    _replace,
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return `data`, at least one byte, changed by one of `MUTATIONS`; the result may still be valid."""
    return rng.choice(MUTATIONS)(rng, data)


def fill_message(rng: random.Random, message_type: type[Message], depth: int = 3) -> Message:
    """Return a message with most fields set, many to values at a limit; `depth` bounds nested messages."""
    filled = message_type()
    for field in message_type.DESCRIPTOR.fields:
        inner = field.message_type
        if rng.random() < 0.3 or (inner is not None and depth == 0):
            continue
        count = rng.choice((0, 1, 3, 300)) if field.is_repeated else 1
        values = [
            _value(rng, field.type)
            if inner is None
            else fill_message(rng, GetMessageClass(cast("Descriptor", inner)), depth - 1)
            for _ in range(count)
        ]
        if field.is_repeated:
            getattr(filled, field.name).extend(values)
        elif inner is not None:
            getattr(filled, field.name).CopyFrom(values[0])
        else:
            setattr(filled, field.name, values[0])
    return filled


def _value(rng: random.Random, kind: int) -> Any:  # noqa: ANN401 - of the field's type
    """Return a value that a field of a type of `FieldDescriptor` takes."""
    if kind == FieldDescriptor.TYPE_STRING:
        return rng.choice(TEXTS)
    if kind == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 32, 10_000)))
    if kind in _FLOATS:
        return rng.choice((0.0, -0.0, 1.0, float("nan"), float("inf"), -1e300))
    low, high = _LIMITS[kind]
    return rng.choice([number for number in NUMBERS if low <= number < high])
