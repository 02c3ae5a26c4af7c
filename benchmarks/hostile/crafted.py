"""Malformed record batches that a broker accepts, so that consumers have to handle them.

A broker (Kafka 4.3) checks the checksum and the count of a batch, and that its records end where they should. It does
not check the offsets of uncompressed records, nor the bytes after compressed records. It decodes some numbers
differently from Python: Java drops the bits of a varint above 32, and reads a record's attributes as one byte.
"""

import gzip
from collections.abc import Mapping
from typing import Final

import cramjam

from benchmarks.hostile.batch import (
    GZIP,
    LZ4,
    SNAPPY,
    ZSTD,
    batch,
    body,
    coded_headers,
    field,
    framed,
    overflowing_varint,
    record,
    varint,
)

BOMB_BYTES: Final = 8 << 20
"""Length of a bomb's value, which is zeros: twice the uncompressed limit of the topics."""
LARGE_BOMB_BYTES: Final = 256 << 20
_GARBAGE: Final = b"what follows no record"
_HEADERS: Final = 20_000


def lz4(data: bytes) -> bytes:
    """Return one frame of independent blocks, the only kind that a broker reads."""
    compressor = cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)
    compressor.compress(data)
    return bytes(compressor.finish())


def zstd(data: bytes) -> bytes:
    """Return one frame."""
    return bytes(cramjam.zstd.compress(data, level=3))


def snappy(data: bytes) -> bytes:
    """Return one block."""
    return bytes(cramjam.snappy.compress_raw(data))


def bodies(key: bytes, value: bytes) -> dict[str, bytes]:
    """Return malformed records that a broker accepts in a batch of one, compressed or not, by their fault.

    `key` and `value` are those of a valid record.
    """
    coded = field(key), field(value)
    parts = {
        "attributes of two bytes": body(*coded, attributes=b"\x80"),
        "attributes of all bits": body(*coded, attributes=b"\xff"),
        "a header's name is not UTF-8": body(*coded, coded_headers([(b"\xff\xfe", b"x")])),
        "a header's name is empty": body(*coded, coded_headers([(b"", None)])),
        "a header's value has the length -2": body(*coded, varint(1) + field(b"a") + varint(-2)),
        "thousands of headers": body(*coded, coded_headers([(b"h%d" % n, b"") for n in range(_HEADERS)])),
        "a key's length has more than 32 bits": body(overflowing_varint(len(key)) + key, field(value)),
        "a value's length has more than 32 bits": body(field(key), overflowing_varint(len(value)) + value),
        "the headers' count has more than 32 bits": body(*coded, overflowing_varint(0)),
        "a header's name has a length of more than 32 bits": body(
            *coded, varint(1) + overflowing_varint(1) + b"a" + field(b"b")
        ),
        "an offset of more than 32 bits": body(*coded, offset_delta=overflowing_varint(0)),
        "a key has the length -1000": body(varint(-1000), field(value)),
        "a timestamp before all others": body(*coded, timestamp_delta=varint(-(1 << 63))),
        "a timestamp of ten bytes": body(*coded, timestamp_delta=b"\xff" * 9 + b"\x7f"),
    }
    good = body(*coded)
    return {name: framed(part) for name, part in parts.items()} | {
        "a record's length has more than 32 bits": overflowing_varint(len(good)) + good
    }


def plain(key: bytes, value: bytes, timestamp_ms: int) -> dict[str, bytes]:
    """Return uncompressed batches, by their fault."""

    def at(delta: int) -> bytes:
        return framed(body(field(key), field(value), offset_delta=varint(delta)))

    batches = {name: batch(inner, timestamp_ms=timestamp_ms) for name, inner in bodies(key, value).items()}
    for name, records, count in (
        ("an offset behind the batch", at(5), 1),
        ("an offset far behind the batch", at((1 << 31) - 1), 1),
        ("an offset before the batch", at(-1), 1),
        ("an offset far before the batch", at(-(1 << 31)), 1),
        ("one offset twice", at(0) + at(0), 2),
        ("offsets that descend", at(1) + at(0), 2),
        ("offsets with a gap", at(0) + at(7), 2),
    ):
        batches[name] = batch(records, count, timestamp_ms=timestamp_ms)
    good = record(key, value)
    batches["attributes without a meaning"] = batch(good, timestamp_ms=timestamp_ms, attributes=0x7FC0)
    batches["a producer that nobody knows"] = batch(
        good, timestamp_ms=timestamp_ms, producer=((1 << 63) - 1, (1 << 15) - 1, (1 << 31) - 1)
    )
    batches["a time before 1970"] = batch(good, timestamp_ms=-5)
    batches["half a batch behind it"] = batch(good, timestamp_ms=timestamp_ms) + batches["a time before 1970"][:20]
    return batches


def compressed(key: bytes, value: bytes, timestamp_ms: int) -> dict[str, bytes]:
    """Return compressed batches, by their fault."""

    def packed(attributes: int, data: bytes) -> bytes:
        return batch(data, timestamp_ms=timestamp_ms, attributes=attributes)

    good, inner = record(key, value), body(field(key), field(value))
    batches = {f"{name}, gzip": packed(GZIP, gzip.compress(content)) for name, content in bodies(key, value).items()}
    for name, content in (
        ("a record's length is too large", varint(len(inner) + 3) + inner),
        ("a record's length is too small", varint(len(inner) - 1) + inner),
    ):
        batches[f"{name}, gzip"] = packed(GZIP, gzip.compress(content))
        batches[f"{name}, zstd"] = packed(ZSTD, zstd(content))
        batches[f"{name}, snappy"] = packed(SNAPPY, snappy(content))
    return batches | {
        "garbage behind a gzip member": packed(GZIP, gzip.compress(good) + _GARBAGE),
        "zeros behind a gzip member": packed(GZIP, gzip.compress(good) + bytes(16)),
        "a record in two gzip members": packed(GZIP, gzip.compress(good[:4]) + gzip.compress(good[4:])),
        "garbage behind an lz4 frame": packed(LZ4, lz4(good) + _GARBAGE),
        "zeros behind an lz4 frame": packed(LZ4, lz4(good) + bytes(16)),
        "a second lz4 frame": packed(LZ4, lz4(good) + lz4(good)),
        "an empty zstd frame behind it": packed(ZSTD, zstd(good) + zstd(b"")),
    }


def bombs(key: bytes, timestamp_ms: int) -> dict[str, bytes]:
    """Return batches of one record whose value is zeros, by codec; it takes a second."""
    large = record(key, bytes(BOMB_BYTES))
    batches: Mapping[str, tuple[int, bytes]] = {
        "a bomb, gzip": (GZIP, gzip.compress(large)),
        "a bomb, snappy": (SNAPPY, snappy(large)),
        "a bomb, lz4": (LZ4, lz4(large)),
        "a bomb, zstd": (ZSTD, zstd(large)),
        "a large bomb, zstd": (ZSTD, zstd(record(key, bytes(LARGE_BOMB_BYTES)))),
    }
    return {
        name: batch(data, timestamp_ms=timestamp_ms, attributes=attributes)
        for name, (attributes, data) in batches.items()
    }
