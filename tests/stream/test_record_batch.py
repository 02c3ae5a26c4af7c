"""Batches as brokers let them through: what a strict parser refuses is read, or stands as unreadable in its place."""

import gzip
import zlib
from collections.abc import Callable

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile.batch import (
    GZIP,
    LZ4,
    NONE,
    SNAPPY,
    ZSTD,
    batch,
    field,
    framed,
    overflowing_varint,
    record,
    varint,
)
from lifeline.stream.dead_letter_headers import HEADERS_CUT
from lifeline.stream.record import HEAD_BYTES, UnreadableRecords
from lifeline.stream.record_batch import (
    HEADER_BYTES,
    LARGE_RECORD_BYTES,
    MAX_BATCH_BYTES,
    MAX_HEADERS,
    UnreadableError,
    check_legacy,
    decompress,
    has_large_record,
    header_of,
    read_records,
)

T = 1_700_000_000_000
PACK: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes,
    GZIP: gzip.compress,
    SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    LZ4: lambda data: bytes(cramjam.lz4.compress(data)),
    ZSTD: lambda data: bytes(cramjam.zstd.compress(data)),
}


def body(
    *,
    attributes: bytes = b"\0",
    offset: bytes = varint(0),
    key: bytes = field(b"u1"),
    value: bytes = field(b"v"),
    headers: bytes = varint(0),
) -> bytes:
    return framed(attributes + varint(0) + offset + key + value + headers)


def read(data: bytes) -> list[object]:
    packed = memoryview(data)
    plain = decompress(packed, header_of(packed))
    return list(read_records(plain, header_of(plain), "actions", 3))


def offsets_of(records: list[object]) -> list[tuple[int, int, bool]]:
    return [
        (each.first_offset, each.offset, False)
        if isinstance(each, UnreadableRecords)
        else (each.offset, each.offset, True)  # type: ignore[attr-defined]
        for each in records
    ]


@pytest.mark.parametrize("codec", list(PACK))
def test_good_batches_read_as_the_strict_parser_reads_them(codec: int) -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for at in range(50):
        headers = [("größe", b"x"), ("n", None)] if at % 3 else []
        builder.append(at, T + at, b"k%d" % at if at % 5 else None, b"v" * at * 40 if at % 7 else None, headers)
    built = bytes(builder.build())
    records = built[HEADER_BYTES:]
    data = memoryview(batch(PACK[codec](records), 50, attributes=codec, timestamp_ms=T))
    ours = read(bytes(data))
    strict = list(DefaultRecordBatch(decompress(data, header_of(data))))
    assert [
        (each.offset, each.timestamp, each.key, each.value, list(each.headers))  # type: ignore[attr-defined]
        for each in ours
    ] == [(each.offset, each.timestamp, each.key, each.value, list(each.headers)) for each in strict]
    assert len(strict) == 50


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_no_codec_unpacks_beyond_the_bound(codec: int) -> None:
    bomb = PACK[codec](bytes(MAX_BATCH_BYTES + 1))
    with pytest.raises(UnreadableError, match=str(MAX_BATCH_BYTES)):
        read(batch(bomb, attributes=codec))
    just_fits = memoryview(batch(PACK[codec](bytes(MAX_BATCH_BYTES)), attributes=codec))
    assert len(decompress(just_fits, header_of(just_fits))) == HEADER_BYTES + MAX_BATCH_BYTES


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD, 5, 7])
@pytest.mark.parametrize("packed", [b"", b"garbage", b"\x82SNAPPY\x00" + bytes(8) + b"\0\0\0\x09ab"])
def test_what_does_not_unpack_is_unreadable(codec: int, packed: bytes) -> None:
    try:
        records = read(batch(packed, attributes=codec))
    except UnreadableError:
        return
    assert [good for *_, good in offsets_of(records)] == [False]


def test_snappy_in_javas_framing_unpacks() -> None:
    first, second = record(b"u1", b"v"), record(b"u2", b"w", offset_delta=1)
    blocks = [PACK[SNAPPY](first), PACK[SNAPPY](second)]
    framing = b"\x82SNAPPY\x00" + bytes([0, 0, 0, 1] * 2)
    packed = framing + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)
    assert [each.key for each in read(batch(packed, 2, attributes=SNAPPY))] == [b"u1", b"u2"]  # type: ignore[attr-defined]


def test_gzip_of_several_members_and_with_something_behind_unpacks() -> None:
    first, second = gzip.compress(record(b"u1", b"v")), gzip.compress(record(b"u2", b"w", offset_delta=1))
    assert len(read(batch(first + second + b"garbage", 2, attributes=GZIP))) == 2
    with pytest.raises(UnreadableError, match="ends in the middle"):
        read(batch(first[:-9], attributes=GZIP))


def test_a_header_name_that_is_not_utf8_gets_escapes() -> None:
    (read_record,) = read(batch(record(b"u1", b"v", [(b"\xff\xfe", b"x"), (b"", None)])))
    assert read_record.headers == (("\\xff\\xfe", b"x"), ("", None))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "odd",
    [
        body(attributes=b"\xff"),
        body(key=overflowing_varint(2) + b"u1"),
        body(value=overflowing_varint(1) + b"v"),
        body(headers=overflowing_varint(0)),
        body(offset=overflowing_varint(0)),
    ],
)
def test_numbers_with_bits_to_spare_read_as_kafka_reads_them(odd: bytes) -> None:
    (read_record,) = read(batch(odd))
    assert (read_record.key, read_record.value, read_record.offset) == (b"u1", b"v", 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("offset", [varint(5), varint(-1), varint(2**31 - 1), varint(-(2**31))])
def test_a_record_that_claims_another_offset_is_unreadable_in_its_own_place(offset: bytes) -> None:
    data = batch(body(offset=offset) + record(b"u2", b"w", offset_delta=1), 2)
    assert offsets_of(read(data)) == [(0, 0, False), (1, 1, True)]


def test_each_offset_of_a_batch_comes_once_whatever_its_records_claim() -> None:
    for claims in ((0, 0), (1, 0), (1, 1), (0, 7)):
        data = batch(b"".join(record(b"u", b"v", offset_delta=each) for each in claims), 2)
        assert [first for first, *_ in offsets_of(read(data))] == [0, 1]


def test_a_compacted_batch_keeps_its_gaps() -> None:
    data = batch(record(b"u", b"v", offset_delta=2) + record(b"u", b"v", offset_delta=6), 2, last_offset_delta=9)
    assert offsets_of(read(data)) == [(2, 2, True), (6, 6, True), (7, 9, False)]


def test_a_record_without_structure_is_unreadable_and_the_next_one_is_read() -> None:
    lies = framed(b"\0\0\0" + varint(100) + b"short")
    (lost, good) = read(batch(lies + record(b"u2", b"w", offset_delta=1), 2, timestamp_ms=T))
    assert isinstance(lost, UnreadableRecords)
    assert (lost.topic, lost.partition, lost.first_offset, lost.offset) == ("actions", 3, 0, 0)
    assert (lost.key, lost.value, lost.headers, lost.size, lost.head) == (None, None, (), len(lies) - 1, lies[1:])
    assert "100 bytes" in lost.why
    assert good.offset == 1  # type: ignore[attr-defined]


def test_where_a_length_leads_nowhere_the_rest_of_the_batch_is_unreadable() -> None:
    data = batch(record(b"u", b"v") + varint(1 << 20) + bytes(5_000), 7)
    records = read(data)
    assert offsets_of(records) == [(0, 0, True), (1, 6, False)]
    lost = records[1]
    assert isinstance(lost, UnreadableRecords)
    assert len(lost.head) == HEAD_BYTES < lost.size


def test_headers_are_bounded() -> None:
    many = record(b"u", b"v", [(b"", None)] * 200_000)
    (read_record,) = read(batch(many))
    assert len(read_record.headers) == MAX_HEADERS + 1  # type: ignore[attr-defined]
    assert read_record.headers[-1] == (HEADERS_CUT, b"199000")  # type: ignore[attr-defined]


def test_a_large_record_is_found_among_small_ones() -> None:
    def has(records: bytes, count: int) -> bool:
        data = memoryview(batch(records, count))
        return has_large_record(data, header_of(data))

    small = b"".join(record(b"u", bytes(at * 5), offset_delta=at) for at in range(400))
    assert len(small) > LARGE_RECORD_BYTES
    assert not has(small, 400)
    assert has(small + record(b"u", bytes(LARGE_RECORD_BYTES), offset_delta=400), 401)
    assert has(small + b"x", 400)
    assert has(small[:-1], 400)
    assert not has(record(b"u", b"v"), 1)


@pytest.mark.parametrize("magic", [0, 1])
def test_messages_of_old_formats_are_bounded_too(magic: int) -> None:
    def message(data: bytes, codec: int) -> memoryview:
        head = bytes(16) + bytes([magic, codec]) + bytes(8 if magic else 0)
        return memoryview(head + b"\xff\xff\xff\xff" + len(data).to_bytes(4, "big") + data)

    check_legacy(message(b"plain", 0))
    check_legacy(message(gzip.compress(b"x"), GZIP))
    with pytest.raises(UnreadableError, match="more than"):
        check_legacy(message(gzip.compress(bytes(MAX_BATCH_BYTES + 1)), GZIP))
    with pytest.raises(UnreadableError, match="ends in the middle"):
        check_legacy(message(b"", GZIP)[:-4])


@given(st.binary(max_size=120), st.integers(1, 5), st.sampled_from([NONE, GZIP, ZSTD]))
def test_any_bytes_give_each_offset_once_and_raise_nothing_else(data: bytes, count: int, codec: int) -> None:
    records = read(batch(PACK[codec](data), count, attributes=codec))
    expected = 0
    for first, last, _ in offsets_of(records):
        assert first == expected
        expected = last + 1
    assert expected == count


@given(st.binary(max_size=80), st.sampled_from([GZIP, SNAPPY, LZ4, ZSTD]))
def test_any_packed_bytes_raise_nothing_else(data: bytes, codec: int) -> None:
    try:
        read(batch(data, attributes=codec))
        read(batch(zlib.compress(data), attributes=codec))
    except UnreadableError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
