"""Record batches of Kafka's log (message format 2), read with bounds, whatever a producer has put into them.

A batch is 61 bytes of header and then its records, which the header's codec may compress as a whole::

    base offset i64 | length i32 | leader epoch i32 | magic i8 | crc u32 | attributes i16 | last offset delta i32
    | first timestamp i64 | largest timestamp i64 | producer id i64 | producer epoch i16 | base sequence i32 | count i32
    record: length varint | attributes i8 | timestamp delta varint | offset delta varint | key | value
            | header count varint | (name, value) ...

`uncompressed` bounds what a codec may unpack. `read_records` parses what a strict parser refuses: a header name that is
not UTF-8 gets escapes, a record without structure becomes an `UnreadableRecords`, and the record behind it is read.
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
"""What a batch may hold once it is unpacked. A constant: the state is a function of the log, so all copies agree."""
MAX_HEADERS: Final = 1_000
"""Headers that are kept of a large record."""
LARGE_RECORD_BYTES: Final = 256 << 10
"""Above this a record is parsed with a bound on its headers: two bytes on the wire cost a hundred in memory."""

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
    """Bytes of a batch that cannot be read; the message says why."""


class BatchHeader(NamedTuple):
    """The 61 bytes before the records, as they stand."""

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
        """The offset of the batch's last record; the broker has counted, whatever the records themselves say."""
        return self.base_offset + self.last_offset_delta

    @property
    def is_dense(self) -> bool:
        """Whether the batch has a record for each of its offsets: only compaction takes some out."""
        return self.records == self.last_offset_delta + 1


def header_of(batch: memoryview) -> BatchHeader:
    """Return the header of a batch of format 2."""
    return BatchHeader(*_HEADER.unpack_from(batch))


def uncompressed(batch: memoryview, header: BatchHeader) -> memoryview:
    """Return the batch without compression: its header without the codec, then the records.

    Raises UnreadableError when the records do not unpack, or to more than `MAX_BATCH_BYTES`.
    """
    if not header.codec:
        if len(batch) > HEADER_BYTES + MAX_BATCH_BYTES:
            raise UnreadableError(f"the batch has more than {MAX_BATCH_BYTES} bytes")
        return batch
    unpacked = _room(HEADER_BYTES + MAX_BATCH_BYTES)
    size = HEADER_BYTES + _unpack(header.codec, batch[HEADER_BYTES:], unpacked[HEADER_BYTES:])
    plain = header._replace(attributes=header.attributes & ~_CODEC_MASK, length=size - _LENGTH_FROM)
    _HEADER.pack_into(unpacked, 0, *plain)
    return unpacked[:size]


def _room(size: int) -> memoryview:
    """Return uninitialised memory: the system gives its pages as they are written, and most batches are small."""
    return np.empty(size, np.uint8).data


def _unpack(codec: int, packed: memoryview, into: memoryview) -> int:
    """Unpack into a buffer, and return how many bytes there are."""
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
    size, rest, first = 0, bytes(packed), True
    # There may be several members; what stands behind the last one is none of ours, as for Kafka's own reader.
    while first or rest[:2] == _GZIP:
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        part = inflate.decompress(rest, len(into) - size + 1)
        if size + len(part) > len(into):
            raise UnreadableError(f"the batch unpacks to more than {len(into)} bytes")
        if not inflate.eof:
            raise UnreadableError("the batch's gzip data ends in the middle")
        into[size : size + len(part)] = part
        size, rest, first = size + len(part), inflate.unused_data, False
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
    """Look at a message of format 0 or 1. Raises UnreadableError when it would unpack to more than the bound."""
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
    _unpack(attributes & _CODEC_MASK, packed, _room(MAX_BATCH_BYTES))


def has_large_record(batch: memoryview, header: BatchHeader) -> bool:
    """Say whether an uncompressed batch has a record above `LARGE_RECORD_BYTES`, or lengths that lead nowhere."""
    if len(batch) - HEADER_BYTES <= LARGE_RECORD_BYTES:
        return False
    at = HEADER_BYTES
    try:
        for _ in range(header.records):
            # Most records have a length of one or two bytes; the general reader takes three times as long.
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
    """Yield the records of an uncompressed batch, and what is unreadable in the place of those that are not."""
    at, before, last = HEADER_BYTES, header.base_offset - 1, header.last_offset
    while before < last:
        start, place = at, (before + 1, before + 1 if header.is_dense else last)
        try:
            data, at = _record_bytes(batch, at)
        except UnreadableError as error:
            # Where the next record begins is not known either.
            yield unreadable(batch[start:], header, topic, partition, (before + 1, last), str(error))
            return
        try:
            record = _record(data, header, topic, partition, place)
        except UnreadableError as error:
            yield unreadable(data, header, topic, partition, (before + 1, before + 1), str(error))
            before += 1
        else:
            yield record
            before = record.offset


def unreadable(
    data: memoryview, header: BatchHeader, topic: str, partition: int, offsets: tuple[int, int], why: str
) -> UnreadableRecords:
    """Return what stands for the records at `offsets`, both included."""
    return UnreadableRecords.of(data, topic, partition, offsets, header.max_timestamp, why)


def _record_bytes(batch: memoryview, at: int) -> tuple[memoryview, int]:
    length, at = _varint(batch, at)
    if not 0 <= length <= len(batch) - at:
        raise UnreadableError(f"a record of {length} bytes in the {len(batch) - at} that are left")
    return batch[at : at + length], at + length


def _record(
    data: memoryview, header: BatchHeader, topic: str, partition: int, place: tuple[int, int]
) -> ConsumerRecord[bytes, bytes]:
    """Read a record whose offset lies between the two of `place`, both included."""
    delta, at = _varint(data, _ATTRIBUTES_BYTES, bits=64)
    append_time = bool(header.attributes & _LOG_APPEND_TIME)
    timestamp = header.max_timestamp if append_time else _signed(header.first_timestamp + delta, 64)
    offset_delta, at = _varint(data, at)
    offset = header.base_offset + offset_delta
    if not place[0] <= offset <= place[1]:
        raise UnreadableError(f"a record says that its offset is {offset}, and stands at {place[0]}")
    key, at = _field(data, at)
    value, at = _field(data, at)
    headers, at = _headers(data, at)
    if at != len(data):
        raise UnreadableError(f"a record of {len(data)} bytes whose fields end at {at}")
    return ConsumerRecord(
        topic,
        partition,
        offset,
        timestamp,
        int(append_time),
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
        raise UnreadableError(f"a record with {count} headers in {len(data) - at} bytes")
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
    """Read a length and as many bytes; a negative length is a null."""
    length, at = _varint(data, at)
    if length < 0:
        return None, at
    if length > len(data) - at:
        raise UnreadableError(f"a field of {length} bytes in the {len(data) - at} that are left")
    return (bytes(data[at : at + length]) if keep else None), at + length


def _varint(data: memoryview, at: int, bits: int = 32) -> tuple[int, int]:
    """Read a zigzag varint; bits that do not fit are dropped, as Kafka's own reader does."""
    number = 0
    for place, byte in enumerate(data[at : at + -(-bits // 7)]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            number &= (1 << bits) - 1
            return (number >> 1) ^ -(number & 1), at + place + 1
    raise UnreadableError("a number that does not end")


def _signed(number: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half
