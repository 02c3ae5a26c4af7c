"""The page on the format: its examples against the code, and a reader that knows nothing but the page."""

import importlib.metadata
import json
import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import mmh3
import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray
from pcodec import standalone
from rocksdict import AccessType, Options, Rdict

from lifeline.core.actions import Kind
from lifeline.store import keys
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.fingerprint import as_text
from lifeline.store.reader import SequenceReader
from tests.support.factories import EVERYTHING, Event, batch_of, event_hash, open_store, perform, tiny

PAGE = Path(__file__).parents[2] / "docs" / "store-format.md"
EXAMPLE = tiny(
    max_explicit=8, max_impressions=4, chunk_events=4, inline_events=3, run_segments=2, max_explicit_age_days=30
)
START_MS = 1_700_000_000_000


class PageReader:
    """Reads a closed partition by the page. It imports nothing of the store."""

    def __init__(self, path: Path) -> None:
        names = ("rows", "chunks", "meta")
        options = {name: Options(raw_mode=True) for name in names}
        db = Rdict(str(path), Options(raw_mode=True), options, AccessType.read_only())
        families = [db.get_column_family(name) for name in names]
        self.rows, self.chunks, self.meta = (_records(each) for each in families)
        for handle in (*families, db):
            handle.close()
        assert (self.meta[b"C"][0], self.meta[b"S"][0]) == (2, 3)
        self.items: list[int] = []
        for key in sorted(key for key in self.meta if key[:1] == b"I"):
            assert struct.unpack(">I", key[1:]) == (len(self.items),)
            self.items += np.frombuffer(self.meta[key], "<u8").tolist()
        _, self.applied_offset, self.watermark_ms, self.events, total = struct.unpack("<BqqQ16s", self.meta[b"S"])
        self.fingerprint = int.from_bytes(total, "little")

    def sequences(self) -> dict[tuple[str, int], list[tuple[int, int, int]]]:
        heads = [key for key in self.rows if key[-2] == 0xFF]
        return {(key[:-2].decode(), key[-1]): self.sequence(key[:-2].decode(), key[-1]) for key in heads}

    def sequence(self, user: str, kind: int) -> list[tuple[int, int, int]]:
        prefix = user.encode() + b"\xff" + bytes([kind])
        head = self.rows.get(prefix)
        if head is None:
            return []
        version, flags, inline, newest_at = head[:4]
        assert version == 2
        assert flags < 16
        at = 4
        segments = in_segments = in_chunks = skip = 0
        newest = mark = None
        if flags & 1:
            newest, at = struct.unpack_from("<qQH", head, at), at + 18
        if flags & 2:
            segments, _, in_segments = struct.unpack_from("<BBI", head, at)
            at += 6
        if flags & 4:
            in_chunks, skip, *sealed = struct.unpack_from("<IHqQHqQH", head, at)
            mark, oldest, at = tuple(sealed[:3]), tuple(sealed[3:]), at + 42
        if flags & 8:
            (hour,) = struct.unpack_from("<I", head, at)
            assert b"X" + bytes([kind]) + struct.pack(">I", hour) + user.encode() in self.meta
            at += 4
        assert len(head) == at + 14 * inline
        unsealed = self._raw(head[at:])
        if newest is None:
            newest = unsealed[newest_at]
        for number in range(segments):
            data = self.rows[prefix + bytes([number])]
            unsealed += self._raw(data[1:]) if data[:1] == b"R" else self._chunk(data[1:])
        assert len(unsealed) == in_segments + inline
        events: list[tuple[int, int, int]] = []
        if flags & 4:
            first = prefix + struct.pack(">QQH", oldest[0] + (1 << 63), *oldest[1:])
            own_keys = sorted(key for key in self.chunks if key.startswith(prefix) and key >= first)
            assert own_keys[0] == first
            for key in own_keys:
                time, item, code = struct.unpack(">QQH", key[-18:])
                part = self._chunk(self.chunks[key])
                assert not events or events[-1] < (time - (1 << 63), item, code)
                assert (time - (1 << 63), item, code) <= part[0]
                events += part
            events = events[skip:]
            assert len(events) == in_chunks
            assert mark is not None
            assert events[-1] <= mark < min(unsealed)
        events += sorted(unsealed)
        assert all(low < high for low, high in pairwise(events))
        assert events[-1] == newest
        return events

    def _raw(self, data: bytes) -> list[tuple[int, int, int]]:
        return [(time, self.items[ordinal], code) for time, ordinal, code in struct.iter_unpack("<qIH", data)]

    def _chunk(self, data: bytes) -> list[tuple[int, int, int]]:
        version, flags, n, at_ordinals, at_codes, first, last, checksum = struct.unpack_from("<BBHHHqqQ", data)
        assert version == 2
        assert flags < 4
        assert xxhash.xxh3_64_intdigest(data[:24] + data[32:]) == checksum
        at_ordinals += 32
        at_codes += at_ordinals
        times = _column(data[32:at_ordinals], n, np.uint32 if flags & 1 else np.int64)
        if flags & 1:
            times = [first + time * (1_000 if flags & 2 else 1) for time in times]
        ordinals = _column(data[at_ordinals:at_codes], n, np.uint32)
        codes = _column(data[at_codes:], n, np.uint16)
        assert (times[0], times[-1]) == (first, last)
        return [(t, self.items[o], c) for t, o, c in zip(times, ordinals, codes, strict=True)]


def _records(family: Rdict) -> dict[bytes, bytes]:
    return dict(cast("Iterator[tuple[bytes, bytes]]", family.items()))


def _column(data: bytes, n: int, dtype: type[np.integer[Any]]) -> list[int]:
    assert data[:5] == b"pco!\x03"
    column: NDArray[np.integer[Any]] = np.empty(n, dtype)
    progress = standalone.simple_decompress_into(data, column)
    assert (progress.n_processed, progress.finished) == (n, True)
    return [int(value) for value in column]


def page_hash(user: str, kind: int, identity: tuple[int, int, int]) -> int:
    time, item, code = identity
    packed = xxhash.xxh3_128_digest(user.encode()) + struct.pack("<qQQQ", time, item, kind, code)
    return int.from_bytes(mmh3.mmh3_x64_128_digest(packed), "little")


def block(kind: str) -> str:
    """Return the page's fenced block of a kind."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


def documented(family: str) -> dict[bytes, bytes]:
    """Return the records of a hex block: comments stand behind two spaces."""
    records = {}
    for paragraph in block(f"hex {family}").strip().split("\n\n"):
        key, value = " ".join(line.split("  ")[0] for line in paragraph.splitlines()).split("->")
        records[bytes.fromhex(key)] = bytes.fromhex(value)
    return records


def event(user: str, kind: int, after_ms: int, item_id: int, code: int) -> Event:
    return Event(user.encode(), START_MS + after_ms, item_id, code, Kind(kind))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> PageReader:
    """The page's store, built by the code."""
    path = tmp_path_factory.mktemp("example")
    store = open_store(path, EXAMPLE)
    for offset, batch in enumerate(json.loads(block("json batches"))):
        store.apply(batch_of(event(*each) for each in batch), offset=offset)
    store.close()
    return PageReader(path)


@pytest.mark.parametrize("family", ["meta", "rows", "chunks"])
def test_the_records_of_the_page_are_those_of_the_code(example: PageReader, family: str) -> None:
    stored: dict[bytes, bytes] = getattr(example, family)
    written = documented(family)
    assert written.keys() == stored.keys()
    if family == "chunks" and importlib.metadata.version("pcodec") != "1.1.0":
        pytest.skip("another pcodec may encode the same numbers in other bytes")
    assert written == stored


def test_the_records_of_the_page_hold_its_sequences(example: PageReader) -> None:
    example.rows, example.chunks, example.meta = (documented(family) for family in ("rows", "chunks", "meta"))
    expected = {
        name: [(START_MS + after_ms, item_id, code) for after_ms, item_id, code in rows]
        for name, rows in json.loads(block("json sequences")).items()
    }
    assert {f"{user} {kind}": events for (user, kind), events in example.sequences().items()} == expected


def test_the_fingerprint_of_the_page_is_that_of_the_code(example: PageReader) -> None:
    vector: dict[str, Any] = json.loads(block("json fingerprint"))
    sample = event(*vector["event"].values())
    assert vector["hash"] == as_text(event_hash(sample)) == as_text(page_hash("bob", sample.kind, sample.identity))
    assert vector["fingerprint"] == as_text(example.fingerprint) == as_text(added_up(example))


def test_the_erasure_key_of_the_page_is_that_of_the_code() -> None:
    # The example has none: it is gone as soon as the bytes are.
    assert "`E` u FF o | erasure at offset o, u64 big-endian" in PAGE.read_text()
    assert keys.erasure_key(b"bob", 7) == b"Ebob\xff" + struct.pack(">Q", 7)


def added_up(reader: PageReader) -> int:
    sequences = reader.sequences().items()
    return sum(page_hash(user, kind, each) for (user, kind), events in sequences for each in events) % (1 << 128)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"chunk_events": 80, "inline_events": 30, "run_segments": 3, "max_explicit": 500},
        {"max_explicit": 200, "max_explicit_age_days": 1, "max_impression_age_days": 1},
    ],
    ids=["tiny", "runs", "ages"],
)
def test_a_reader_that_follows_the_page_finds_every_sequence(tmp_path: Path, changes: dict[str, int]) -> None:
    settings = tiny(**changes)
    store = open_store(tmp_path, settings)
    for offset in range(150):
        perform(store, offset)
    if "max_explicit_age_days" in changes:
        # A day and some minutes pass, so that the horizon cuts through what is there.
        later = batch_of([Event(b"ann", 86_400_000 + 60_000 * minutes, 1, 257) for minutes in range(60, 63)])
        assert store.apply(later, offset=150).expired
    store.close()
    page = PageReader(tmp_path)
    follower = open_store(tmp_path, settings)
    found = {
        (user, int(kind)): [tuple(identity) for identity in sequence.identities()]
        for user in follower.users()
        for kind, sequence in SequenceReader(follower).read(user, EVERYTHING).sequences.items()
        if sequence.length
    }
    assert page.sequences() == found
    assert sum(map(len, found.values())) == page.events == follower.state.events
    assert added_up(page) == page.fingerprint == follower.fingerprint
    follower.close()


def test_a_reader_that_follows_the_page_finds_every_embedding(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    item_id = rng.integers(1, 1 << 63, 9_000).astype(np.uint64)
    embedding = rng.integers(-127, 128, (9_000, 32)).astype(np.int8)
    table = EmbeddingTable.open(tmp_path)
    for offset, version in enumerate((1, 2)):
        rows = slice(0, 9_000 // version)
        embedding[rows] += np.int8(version)
        versions = np.full(len(item_id[rows]), version, np.uint32)
        table.apply(item_id[rows], embedding[rows], versions, partition=4, offset=offset)
    table.close()
    matrix, items = ((tmp_path / name).read_bytes() for name in ("embeddings.bin", "items.bin"))
    assert (matrix[:8], items[:8]) == (b"LLEMBED\x02", b"LLITEMS\x02")
    rows_there, changes, pending, _ = struct.unpack_from("<QQQQ", matrix, 8)
    assert (rows_there, changes % 2, pending) == (9_000, 0, 4_500)
    stored = np.frombuffer(items, [("item_id", "<u8"), ("version", "<u4"), ("check", "<u4")])[1 : rows_there + 1]
    assert stored["item_id"].tolist() == item_id.tolist()
    assert stored["version"].tolist() == [2] * 4_500 + [1] * 4_500
    assert [page_check(int(item), row) for row, item in enumerate(item_id.tolist(), 1)] == stored["check"].tolist()
    vectors = np.frombuffer(matrix, np.int8, 32 * (rows_there + 1), 299_008).reshape(-1, 32)
    assert not vectors[0].any()
    assert (vectors[1:] == embedding).all()
    assert json.loads((tmp_path / "embeddings.json").read_text()) == {
        "format": 2,
        "rows": 9_000,
        "offsets": {"4": 1},
    }


def page_check(item_id: int, row: int) -> int:
    mixed = (item_id ^ row * 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93
    return mixed % (1 << 64) >> 32 | 1
