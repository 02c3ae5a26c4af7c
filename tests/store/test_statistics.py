from pathlib import Path

from lifeline.store.partition import PartitionStore
from lifeline.store.reader import SequenceReader
from lifeline.store.rocksdb import FAMILIES
from lifeline.store.statistics import files_in
from tests.support.factories import ANN, EVERYTHING, Event, batch_of


def test_a_partition_says_what_it_is_made_of(tmp_path: Path, store: PartitionStore) -> None:
    store.apply(batch_of([*ANN, *(Event(b"user%d" % number, number, 1, 257) for number in range(500))]), offset=0)
    fresh = store.statistics()
    assert tuple(fresh.families) == FAMILIES
    assert fresh.families["rows"].memtable_bytes > 0
    assert [family.tables for family in fresh.families.values()] == [0, 0, 0]
    assert fresh.wal_bytes > 10_000
    store.compact()
    after = store.statistics()
    # Each family's own tables, and no other's.
    assert [family.tables for family in after.families.values()] == [1, 1, 1]
    assert [family.level_zero_tables for family in after.families.values()] == [0, 0, 0]
    rows = after.families["rows"]
    assert 500 <= rows.keys <= 510
    assert 0 < after.families["chunks"].keys < 20
    tables = sum(family.table_bytes for family in after.families.values())
    assert tables == sum(size for path, size in files_in(tmp_path / "p") if path.suffix == ".sst")
    assert after.wal_bytes < fresh.wal_bytes
    assert after.directory_bytes == sum(size for _, size in files_in(tmp_path / "p")) > tables
    assert (after.background_errors, after.writes_stopped) == (0, False)


def test_views_and_the_cache_are_counted(store: PartitionStore) -> None:
    store.apply(batch_of(ANN), offset=0)
    store.compact()
    before = store.statistics()
    with store.view() as view:
        assert store.statistics().open_views == 1
        del view
    SequenceReader(store).read("ann", EVERYTHING)
    after = store.statistics()
    assert after.open_views == 0
    assert after.block_cache_bytes >= before.block_cache_bytes
    assert after.block_cache_bytes >= after.block_cache_pinned_bytes >= 0


def test_files_that_go_meanwhile_are_passed_over(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1234")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert sorted((path.name, size) for path, size in files_in(tmp_path)) == [("a", 4), ("b", 4)]
