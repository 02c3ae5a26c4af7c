"""Inspection of a partition: its sums are those of the bytes on disk, and no broken record stops it."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lifeline.core.actions import ActionBatch, Kind
from lifeline.sources.history import generated_history
from lifeline.store import keys
from lifeline.store.inspection.partition import PartitionInspection, inspect_partition
from lifeline.store.settings import StoreSettings
from tests.support.disk import contents, damage, record, rewrite
from tests.support.factories import ANN as ANN_EVENTS
from tests.support.factories import batch_of, open_store, perform, tiny
from tests.support.inspected import ANN, SHAPE, filled, inspected


def inspection(path: Path, top: int = 10) -> PartitionInspection:
    with inspected(path) as store:
        return inspect_partition(store, top=top)


def stored_bytes(path: Path) -> int:
    families = [contents(path, family) for family in ("rows", "chunks", "meta")]
    return sum(len(key) + len(data) for family in families for key, data in family.items())


def test_it_counts_what_is_there(tmp_path: Path) -> None:
    model = filled(tmp_path)
    report = inspection(tmp_path)
    assert (report.damaged, report.damages) == (0, ())
    assert (report.partition, report.path) == (0, tmp_path)
    assert report.state.fingerprint == model.fingerprint
    assert report.contract is not None
    assert report.contract.max_explicit == SHAPE.max_explicit
    assert (report.users, report.items, report.state.events) == (3, 4, 53)
    explicit, impressions = report.kinds[Kind.EXPLICIT], report.kinds[Kind.IMPRESSION]
    assert (explicit.sequences, explicit.events) == (3, 47)
    assert (impressions.sequences, impressions.events) == (1, 6)
    for totals in (explicit, impressions):
        assert totals.inline + totals.in_segments + totals.sealed == totals.events
        assert sum(each.values for each in totals.events_per_sequence.bins) == totals.sequences
    assert sum(each.values for each in report.events_per_chunk.bins) == explicit.chunks + impressions.chunks
    assert explicit.skipped
    assert explicit.oldest_timestamp_ms == 0
    assert explicit.newest_timestamp_ms == max(each.timestamp_ms for each in model.identities(b"ann", Kind.EXPLICIT))
    assert [(each.user, each.events) for each in report.largest] == [("ann", 40), ("bob", 12), ("cy", 1)]
    assert {each.encoding for each in report.encodings} == {"uint32 ms"}
    assert sum(each.bytes for each in report.parts) == stored_bytes(tmp_path)
    assert {(each.family, each.name) for each in report.parts} >= {
        ("rows", "heads"),
        ("rows", "inline events"),
        ("rows", "raw segments"),
        ("chunks", "timestamps"),
        ("meta", "item ids"),
    }
    assert report.statistics.families.keys() == {"rows", "chunks", "meta"}


def test_tables_are_told_apart_by_family_and_level(tmp_path: Path) -> None:
    store = open_store(tmp_path, SHAPE, partition=0)
    store.apply(batch_of(ANN_EVENTS), offset=0)
    waiting = inspection(tmp_path)
    assert waiting.tables == ()
    assert {each.name: each.bytes for each in waiting.files}["write-ahead log"]
    store.compact()
    report = inspection(tmp_path)
    store.close()
    assert [(each.family, each.level, each.tables) for each in report.tables] == [
        ("rows", 6, 1),
        ("chunks", 6, 1),
        ("meta", 6, 1),
    ]
    sizes = {path.stat().st_size for path in tmp_path.glob("*.sst")}
    assert {each.bytes for each in report.tables} == sizes
    sequences, tables, directory = report.sizes
    assert tables.bytes == sum(each.bytes for each in report.tables if each.family != "meta")
    assert directory.bytes > tables.bytes
    assert sequences.per_event == pytest.approx(sequences.bytes / 30)
    assert sequences.ratio_50 == pytest.approx(50 / sequences.per_event)
    assert sequences.ratio_18 == pytest.approx(18 / sequences.per_event)


def test_an_empty_partition_has_nothing_to_show(tmp_path: Path) -> None:
    open_store(tmp_path, SHAPE, partition=0).close()
    report = inspection(tmp_path)
    assert (report.damaged, report.users, report.largest, report.sizes, report.events_per_chunk.bins) == (
        0,
        0,
        (),
        (),
        (),
    )


def test_whatever_the_log_did_no_record_is_broken(tmp_path: Path) -> None:
    shape = tiny(max_explicit_age_days=1)
    store = open_store(tmp_path, shape, partition=0)
    for offset in range(120):
        perform(store, offset)
        if offset % 10 == 9:
            report = inspection(tmp_path)
            assert report.damages == ()
            assert sum(each.events for each in report.largest) == store.state.events == report.state.events
            assert report.users == len(list(store.users()))
    store.close()
    assert sum(each.bytes for each in inspection(tmp_path).parts) == stored_bytes(tmp_path)


def test_only_the_largest_users_are_named(tmp_path: Path) -> None:
    filled(tmp_path)
    assert [each.user for each in inspection(tmp_path, top=2).largest] == ["ann", "bob"]
    assert inspection(tmp_path, top=0).largest == ()


def _count(path: Path) -> None:
    data = contents(path, "meta")[keys.STATE_KEY]
    rewrite(path, "meta", keys.STATE_KEY, data[:17] + struct.pack("<Q", 1) + data[25:])


@pytest.mark.parametrize(
    ("breaks", "what", "why"),
    [
        (lambda path: damage(path, "chunks", ANN, 50, 0xAA), "explicit chunk", "checksum"),
        (lambda path: damage(path, "rows", ANN, 0, 3), "explicit head", "has format 3"),
        (
            lambda path: rewrite(path, "rows", record(path, "rows", ANN + b"\x00")[0], None),
            "explicit segment 0",
            "missing",
        ),
        (
            lambda path: rewrite(path, "rows", b"nobody", b"?"),
            f"rows {b'nobody'.hex()}",
            "does not belong to this format",
        ),
        (
            lambda path: rewrite(path, "chunks", b"nobody\xff", b"?"),
            f"chunks {b'nobody'.hex()}ff",
            "does not belong to this format",
        ),
        (lambda path: rewrite(path, "meta", b"Q", b"?"), "meta 51", "does not belong to this format"),
        (
            lambda path: rewrite(path, "meta", keys.expiry_key(ANN, 7), b""),
            "expiry keys",
            "0 heads refer to one, but 1",
        ),
        (_count, "state", "it counts 1 events, but 53 are stored"),
    ],
    ids=["chunk", "head", "segment", "rows-key", "chunks-key", "meta-key", "expiry", "state"],
)
def test_a_broken_record_is_listed_and_the_rest_counted(
    tmp_path: Path, breaks: Callable[[Path], None], what: str, why: str
) -> None:
    filled(tmp_path)
    breaks(tmp_path)
    report = inspection(tmp_path)
    assert report.damaged == len(report.damages) >= 1
    assert any(each.record.startswith(what) and why in each.why for each in report.damages), report.damages
    assert report.users == 3
    assert {each.user: each.events for each in report.largest if each.user != "ann"} == {"bob": 12, "cy": 1}


def test_a_table_that_cannot_be_read_is_a_damage_too(tmp_path: Path) -> None:
    store = open_store(tmp_path, SHAPE, partition=0)
    store.apply(batch_of(ANN_EVENTS), offset=0)
    store.compact()
    with inspected(tmp_path) as other:
        size = next(each.bytes for each in other.tables() if each.family == "chunks")
    store.close()
    (table,) = (path for path in tmp_path.glob("*.sst") if path.stat().st_size == size)
    content = bytearray(table.read_bytes())
    content[100] ^= 0xFF
    table.write_bytes(content)
    report = inspection(tmp_path)
    assert any(
        "chunks after" in each.record and "RocksDB cannot continue reading" in each.why for each in report.damages
    ), report.damages
    assert report.users == 1


def test_a_generated_history_is_small(tmp_path: Path) -> None:
    history = generated_history()
    store = open_store(tmp_path, StoreSettings(block_cache_mib=8, write_buffer_mib=8), partition=0)
    kinds = history.vocabulary.kind_of_type[history.action_type]
    users = [user.encode() for user in history.user_id]
    for at in range(0, len(users), 5_000):
        rows = slice(at, at + 5_000)
        batch = ActionBatch.of(
            users[rows],
            history.timestamp_ms[rows],
            history.item_id[rows],
            history.action_type[rows],
            history.surface[rows],
            kinds[rows],
            history.timestamp_ms[rows],
        )
        store.apply(batch, offset=at)
    store.compact()
    passed: list[int] = []
    with inspected(tmp_path) as other:
        report = inspect_partition(other, progress=passed.append)
    store.close()
    assert report.damages == ()
    assert passed[-1] == report.state.events
    assert passed == sorted(passed)
    longest = max(np.unique(np.array(history.user_id), return_counts=True)[1])
    assert report.largest[0].events <= longest
    assert [each.events for each in report.largest] == sorted((each.events for each in report.largest), reverse=True)
    assert report.sizes[1].per_event < 8
    assert report.events_per_chunk.bins[0].low <= 1_024 <= report.events_per_chunk.bins[-1].high
