"""Reads record batches of Kafka's log (message format 2) within bounds, whatever bytes a producer has sent.

A batch is 61 bytes of header and then its records, which the header's codec may compress as a whole::

    base offset i64 | length i32 | leader epoch i32 | magic i8 | crc u32 | attributes i16 | last offset delta i32
    | first timestamp i64 | largest timestamp i64 | producer id i64 | producer epoch i16 | base sequence i32 | count i32
    record: length varint | attributes i8 | timestamp delta varint | offset delta varint | key | value
            | header count varint | (name, value) ...

`decompress` limits the size of the unpacked records. `read_records` also parses batches that a strict parser rejects: a
header name that is not UTF-8 gets escapes, a malformed record becomes an `UnreadableRecords`, and the records after it
are read.
Format: https://kafka.apache.org/documentation/#recordbatch
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import cramjam
import numpy as np
from aiokafka.structs import ConsumerRecord

from lifeline.stream.dead_letter_headers import HEADERS_CUT
from lifeline.stream.record import UnreadableRecords

MAX_BATCH_BYTES: Final = 32 << 20
"""The largest size of an unpacked batch. It is a constant, because all copies of the state must agree on it."""
MAX_HEADERS: Final = 1_000
"""The number of headers that are kept of a large record."""
LARGE_RECORD_BYTES: Final = 256 << 10
"""The headers of a larger record are limited: one of two bytes on the wire takes a hundred in memory."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = _HEADER.size
_CODEC_MASK: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_LENGTH_FROM: Final = 12
_ATTRIBUTES_BYTES: Final = 1
_GZIP: Final = b"\x1f\x8b"
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16


class UnreadableError(Exception):
    """Bytes of a batch are unreadable; the message says why."""


class BatchHeader(NamedTuple):
    """The 61 bytes before the records, field by field."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
        return self.attributes & _CODEC_MASK

    @property
    def last_offset(self) -> int:
        """The offset of the batch's last record. The broker sets it; the offsets in the records may be wrong."""
        return self.base_offset + self.last_offset_delta

    @property
    def is_dense(self) -> bool:
        """Whether the batch has a record for each of its offsets; only compaction removes some."""
        return self.records == self.last_offset_delta + 1


def header_of(batch: memoryview) -> BatchHeader:
    """Return the header of a batch of format 2."""
    return BatchHeader(*_HEADER.unpack_from(batch))


def decompress(batch: memoryview, header: BatchHeader) -> memoryview:
    """Return the batch without compression: its header with codec 0, then the unpacked records.

    Raises UnreadableError when the records do not unpack, or unpack to more than `MAX_BATCH_BYTES`.
    """
    if not header.codec:
        if len(batch) > HEADER_BYTES + MAX_BATCH_BYTES:
            raise UnreadableError(f"the batch has more than {MAX_BATCH_BYTES} bytes")
        return batch
    unpacked = _buffer(HEADER_BYTES + MAX_BATCH_BYTES)
    size = HEADER_BYTES + _unpack(header.codec, batch[HEADER_BYTES:], unpacked[HEADER_BYTES:])
    plain = header._replace(attributes=header.attributes & ~_CODEC_MASK, length=size - _LENGTH_FROM)
    _HEADER.pack_into(unpacked, 0, *plain)
    return unpacked[:size]


def _buffer(size: int) -> memoryview:
    """Return uninitialized memory: unwritten pages take no memory, and most batches are small."""
    return np.empty(size, np.uint8).data


def _unpack(codec: int, packed: memoryview, into: memoryview) -> int:
    """Unpack into a buffer, and return the number of bytes written. Raises UnreadableError."""
    try:
        match codec:
            case 1:
                return _unpack_gzip(packed, into)
            case 2:
                return _unpack_snappy(packed, into)
            case 3:
                return int(cramjam.lz4.decompress_into(packed, into))
            case 4:
                return int(cramjam.zstd.decompress_into(packed, into))
    except (cramjam.DecompressionError, zlib.error, struct.error) as error:
        raise UnreadableError(f"the batch does not unpack within {len(into)} bytes ({error})") from error
    raise UnreadableError(f"the batch has compression {codec}, which Kafka does not define")


def _unpack_gzip(packed: memoryview, into: memoryview) -> int:
    size, rest, is_first = 0, bytes(packed), True
    # There may be several gzip members. Bytes after the last one are ignored, as Kafka's own reader does.
    while is_first or rest[:2] == _GZIP:
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        part = inflate.decompress(rest, len(into) - size + 1)
        if size + len(part) > len(into):
            raise UnreadableError(f"the batch unpacks to more than {len(into)} bytes")
        if not inflate.eof:
            raise UnreadableError("the batch's gzip data ends in the middle")
        into[size : size + len(part)] = part
        size, rest, is_first = size + len(part), inflate.unused_data, False
    return size


def _unpack_snappy(packed: memoryview, into: memoryview) -> int:
    """Unpack one raw block, or blocks in the framing of the xerial library, which Java's clients write."""
    if bytes(packed[: len(_XERIAL)]) != _XERIAL:
        return int(cramjam.snappy.decompress_raw_into(packed, into))
    size, at = 0, _XERIAL_HEADER_BYTES
    while at < len(packed):
        (length,) = struct.unpack_from(">I", packed, at)
        block = packed[at + 4 : at + 4 + length]
        if len(block) < length:
            raise UnreadableError("the batch's snappy data ends in the middle")
        size += int(cramjam.snappy.decompress_raw_into(block, into[size:]))
        at += 4 + length
    return size


def check_legacy(message: memoryview) -> None:
    """Check a message of format 0 or 1. Raises UnreadableError when it unpacks to more than `MAX_BATCH_BYTES`."""
    magic, attributes = message[16], message[17]
    if not attributes & _CODEC_MASK:
        return
    at = 26 if magic else 18
    try:
        (key_bytes,) = struct.unpack_from(">i", message, at)
        at += 4 + max(key_bytes, 0)
        (value_bytes,) = struct.unpack_from(">i", message, at)
    except struct.error as error:
        raise UnreadableError("a message of an old format ends in the middle") from error
    packed = message[at + 4 : at + 4 + max(value_bytes, 0)]
    _unpack(attributes & _CODEC_MASK, packed, _buffer(MAX_BATCH_BYTES))


def has_large_record(batch: memoryview, header: BatchHeader) -> bool:
    """Return whether an uncompressed batch has a record above `LARGE_RECORD_BYTES`, or invalid record lengths."""
    if len(batch) - HEADER_BYTES <= LARGE_RECORD_BYTES:
        return False
    at = HEADER_BYTES
    try:
        for _ in range(header.records):
            # Most lengths take one or two bytes; `_varint` would take three times as long.
            first = batch[at]
            if first < 0x80:
                at += 1 + (first >> 1)
            elif (second := batch[at + 1]) < 0x80:
                at += 2 + ((first & 0x7F | second << 7) >> 1)
            else:
                length, at = _varint(batch, at)
                if not 0 <= length <= LARGE_RECORD_BYTES:
                    return True
                at += length
    except (IndexError, UnreadableError):
        return True
    return at != len(batch)


def read_records(
    batch: memoryview, header: BatchHeader, topic: str, partition: int
) -> Iterator[ConsumerRecord[bytes, bytes] | UnreadableRecords]:
    """Yield the records of an uncompressed batch, with an `UnreadableRecords` in place of each malformed part."""
    at, previous, last = HEADER_BYTES, header.base_offset - 1, header.last_offset
    while previous < last:
        start, offsets = at, (previous + 1, previous + 1 if header.is_dense else last)
        try:
            data, at = _record_bytes(batch, at)
        except UnreadableError as error:
            # The length is invalid, so the start of the next record is unknown.
            yield unreadable_records(batch[start:], header, topic, partition, (previous + 1, last), str(error))
            return
        try:
            record = _record(data, header, topic, partition, offsets)
        except UnreadableError as error:
            yield unreadable_records(data, header, topic, partition, (previous + 1, previous + 1), str(error))
            previous += 1
        else:
            yield record
            previous = record.offset


def unreadable_records(
    data: memoryview, header: BatchHeader, topic: str, partition: int, offsets: tuple[int, int], why: str
) -> UnreadableRecords:
    """Return the replacement for the records from the first to the last of `offsets`."""
    return UnreadableRecords.of(data, topic, partition, offsets, header.max_timestamp, why)


def _record_bytes(batch: memoryview, at: int) -> tuple[memoryview, int]:
    length, at = _varint(batch, at)
    if not 0 <= length <= len(batch) - at:
        raise UnreadableError(f"a record has {length} bytes, and the batch only {len(batch) - at} more")
    return batch[at : at + length], at + length


def _record(
    data: memoryview, header: BatchHeader, topic: str, partition: int, offsets: tuple[int, int]
) -> ConsumerRecord[bytes, bytes]:
    """Read a record whose offset must be within `offsets`, both included."""
    delta, at = _varint(data, _ATTRIBUTES_BYTES, bits=64)
    is_log_time = bool(header.attributes & _LOG_APPEND_TIME)
    timestamp = header.max_timestamp if is_log_time else _signed(header.first_timestamp + delta, 64)
    offset_delta, at = _varint(data, at)
    offset = header.base_offset + offset_delta
    if not offsets[0] <= offset <= offsets[1]:
        raise UnreadableError(f"a record gives its offset as {offset}, and is at offset {offsets[0]}")
    key, at = _field(data, at)
    value, at = _field(data, at)
    headers, at = _headers(data, at)
    if at != len(data):
        raise UnreadableError(f"the fields of a record of {len(data)} bytes end at byte {at}")
    return ConsumerRecord(
        topic,
        partition,
        offset,
        timestamp,
        int(is_log_time),
        key,
        value,
        None,
        -1 if key is None else len(key),
        -1 if value is None else len(value),
        headers,
    )


def _headers(data: memoryview, at: int) -> tuple[tuple[tuple[str, bytes | None], ...], int]:
    count, at = _varint(data, at)
    if not 0 <= count <= len(data) - at:
        raise UnreadableError(f"a record gives the number of its headers as {count}, in {len(data) - at} bytes")
    headers: list[tuple[str, bytes | None]] = []
    for number in range(count):
        name, at = _field(data, at, keep=number < MAX_HEADERS)
        value, at = _field(data, at, keep=number < MAX_HEADERS)
        if number < MAX_HEADERS:
            headers.append(((name or b"").decode("utf-8", "backslashreplace"), value))
    if count > MAX_HEADERS:
        headers.append((HEADERS_CUT, str(count - MAX_HEADERS).encode()))
    return tuple(headers), at


def _field(data: memoryview, at: int, *, keep: bool = True) -> tuple[bytes | None, int]:
    """Read a length and that many bytes, and return them (or None: null, or not `keep`) and the next position."""
    length, at = _varint(data, at)
    if length < 0:
        return None, at
    if length > len(data) - at:
        raise UnreadableError(f"a field has {length} bytes, and the record only {len(data) - at} more")
    return (bytes(data[at : at + length]) if keep else None), at + length


def _varint(data: memoryview, at: int, bits: int = 32) -> tuple[int, int]:
    """Read a zigzag varint, and return it and the next position; excess bits are dropped, as Kafka's reader does."""
    number = 0
    for index, byte in enumerate(data[at : at + -(-bits // 7)]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            number &= (1 << bits) - 1
            return (number >> 1) ^ -(number & 1), at + index + 1
    raise UnreadableError("a varint is too long or truncated")


def _signed(number: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half
