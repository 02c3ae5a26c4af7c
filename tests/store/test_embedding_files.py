import random
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lifeline.store import embedding_files
from lifeline.store.embedding_files import PENDING_ROWS, EmbeddingFiles, SyncPoint, nonzero_rows
from lifeline.store.errors import StoreError, StoreLockedError

PAGE = 4_096
CHANGES, ROWS = 2, 1


def rows_of(*values: int) -> NDArray[np.int8]:
    return np.repeat(np.array(values, np.int8), 32).reshape(-1, 32)


def versions(n: int, value: int = 1) -> NDArray[np.uint32]:
    return np.full(n, value, np.uint32)


def filled(path: Path, values: NDArray[np.int8]) -> EmbeddingFiles:
    """Open files whose row r + 1 is item 10 * r with values[r] 32 times."""
    files = EmbeddingFiles(path, writable=True)
    files.append(np.arange(len(values), dtype=np.uint64) * np.uint64(10), rows_of(*values), versions(len(values)))
    files.publish(len(values))
    return files


def seen(files: EmbeddingFiles, rows: NDArray[np.int64]) -> list[int]:
    """Return the value of each row, every one of which must be whole."""
    embedding = files.gather(rows)
    assert embedding.dtype == np.int8
    assert (embedding.min(axis=1) == embedding.max(axis=1)).all()
    found: list[int] = embedding[:, 0].tolist()
    return found


class Meddled:
    """A header that lets others in before a read of `changes`: the reads at which it does are numbered from 0."""

    def __init__(self, files: EmbeddingFiles, at: set[int], meddle: Callable[[], None]) -> None:
        self._header, self._at, self._meddle = files._mapped.header, at, meddle
        self.reads = 0
        files._mapped = files._mapped._replace(header=self)  # type: ignore[arg-type]

    def __getitem__(self, field: int) -> int:
        if field == CHANGES:
            self.reads += 1
            if self.reads - 1 in self._at:
                self._meddle()
        return self._header[field]


def test_what_is_appended_shows_once_it_is_published(tmp_path: Path) -> None:
    writer = filled(tmp_path, np.array([3, -4], np.int8))
    reader = EmbeddingFiles(tmp_path, writable=False)
    writer.append(np.array([7], np.uint64), rows_of(9), versions(1, 5))
    assert (reader.rows, reader.item_ids(1).tolist()) == (2, [0, 10])
    writer.publish(3)
    assert (reader.rows, reader.item_ids(1).tolist(), reader.item_ids(3).tolist()) == (3, [0, 10, 7], [7])
    assert seen(reader, np.arange(4)) == [0, 3, -4, 9]
    assert reader.versions(np.array([3, 1])).tolist() == [5, 1]
    assert reader.item_ids(4).tolist() == []
    reader.close()
    writer.close()


def test_a_reader_sees_changes_in_place_and_growth(tmp_path: Path) -> None:
    writer = filled(tmp_path, np.ones(4_000, np.int8))
    reader = EmbeddingFiles(tmp_path, writable=False)
    writer.replace(np.array([9, 2]), rows_of(5, 6), versions(2, 7))
    writer.append(np.arange(1 << 20, (1 << 20) + 9_000, dtype=np.uint64), rows_of(*[8] * 9_000), versions(9_000))
    writer.publish(13_000)
    assert seen(reader, np.array([1, 2, 9, 4_000])) == [1, 6, 5, 1]
    assert reader.versions(np.array([1, 2, 9])).tolist() == [1, 7, 7]
    assert len(reader.item_ids(4_001)) == 9_000
    assert seen(reader, np.array([4_001, 13_000])) == [8, 8]
    reader.close()
    writer.close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    filled(tmp_path, np.ones(3, np.int8)).close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    reader = EmbeddingFiles(tmp_path, writable=False)
    with pytest.raises((TypeError, ValueError), match="read-only"):
        reader.publish(2)
    with pytest.raises(ValueError, match="read-only"):
        reader.replace(np.array([1]), rows_of(2), versions(1))
    reader.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = filled(tmp_path, np.ones(1, np.int8))
    with pytest.raises(StoreLockedError):
        EmbeddingFiles(tmp_path, writable=True)
    first.close()
    EmbeddingFiles(tmp_path, writable=True).close()


def test_nothing_is_there_to_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no embeddings"):
        EmbeddingFiles(tmp_path, writable=False)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_so_already_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = filled(tmp_path, np.array([1, 2, 3], np.int8))
    put: list[list[int]] = []
    monkeypatch.setattr(EmbeddingFiles, "_put", staticmethod(lambda _, rows, __: put.append(rows.tolist())))
    files.replace(np.array([3, 1, 2]), rows_of(3, 1, 2), versions(3))
    assert put == []
    files.replace(np.array([3, 1, 2]), rows_of(3, 5, 2), np.array([1, 1, 2], np.uint32))
    assert put == [[1, 2]]
    assert files.versions(np.array([1, 2, 3])).tolist() == [1, 2, 1]
    files.close()


def test_more_rows_than_fit_the_block_change_in_turns(tmp_path: Path) -> None:
    n = 2 * PENDING_ROWS + 5
    files = filled(tmp_path, np.ones(n, np.int8))
    rows = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    values = (rows % 100).astype(np.int8)
    files.replace(rows, rows_of(*values), versions(n, 2))
    assert seen(files, rows) == values.tolist()
    assert files._mapped.header[CHANGES] == 6
    files.close()


def test_rows_are_whole_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = filled(tmp_path, np.ones(1_000, np.int8))
    other = EmbeddingFiles(tmp_path, writable=False)
    everything, found = np.arange(1_001), list[list[int]]()

    def put_slowly(matrix: NDArray[np.int8], rows: NDArray[np.uint32], embedding: NDArray[np.int8]) -> None:
        for half in (slice(0, 16), slice(16, 32)):
            matrix[rows, half] = embedding[:, half]
            found.extend(seen(reader, everything) for reader in (files, other))

    monkeypatch.setattr(EmbeddingFiles, "_put", staticmethod(put_slowly))
    rows = np.array([1_000, 4, 600])
    files.replace(rows, rows_of(7, 8, 9), versions(3))
    expected = np.ones(1_001, np.int8)
    expected[[0, *rows]] = 0, 7, 8, 9
    assert found == [expected.tolist()] * 4
    assert seen(files, np.array([4, 4, 1])) == [8, 8, 1]
    other.close()
    files.close()


@pytest.mark.parametrize("overtaken", [{1}, {0}, {1, 3}, {1, 3, 5, 7, 9, 11}, set(range(1, 60))])
def test_a_reader_that_is_overtaken_reads_again(tmp_path: Path, overtaken: set[int]) -> None:
    n = 3_000
    writer, reader = filled(tmp_path, np.ones(n, np.int8)), EmbeddingFiles(tmp_path, writable=False)
    rows, value = np.arange(1, n + 1), 1

    def change() -> None:
        nonlocal value
        value += 1
        writer.replace(rows, np.full((n, 32), value, np.int8), versions(n))

    header = Meddled(reader, overtaken, change)
    found = seen(reader, rows)
    assert header.reads > max(overtaken)
    assert value == 1 + len(overtaken)
    # Each row is what it was at some moment after the first change that overtook its reader.
    assert 2 <= min(found) <= max(found) <= value
    reader.close()
    writer.close()


@pytest.mark.parametrize("half", [0, 1, 2])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_change_that_broke_off_is_finished(
    tmp_path: Path, half: int, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = filled(tmp_path, np.ones(50, np.int8))
    files.sync(SyncPoint(50, {}))

    class BrokenOffError(Exception):
        pass

    def break_off(matrix: NDArray[np.int8], rows: NDArray[np.uint32], embedding: NDArray[np.int8]) -> None:
        matrix[rows, : 16 * half] = embedding[:, : 16 * half]
        raise BrokenOffError

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingFiles, "_put", staticmethod(break_off))
        with pytest.raises(BrokenOffError):
            files.replace(np.array([3, 40]), rows_of(5, 6), versions(2))
    if goes_on:
        files.replace(np.array([1]), rows_of(2), versions(1))
        assert seen(files, np.array([1, 50, 3, 40])) == [2, 1, 5, 6]
        assert files._mapped.header[CHANGES] == 4
    files.close()
    expected = [1 + goes_on, 1, 5, 6]
    reader = EmbeddingFiles(tmp_path, writable=False)
    assert seen(reader, np.array([1, 50, 3, 40])) == expected
    files = EmbeddingFiles(tmp_path, writable=True)
    assert seen(files, np.array([1, 50, 3, 40])) == expected
    files.recover(50)
    assert files._mapped.header[CHANGES] % 2 == 0
    # Now without the block, which the next change takes.
    files.replace(np.array([1]), rows_of(3), versions(1))
    assert seen(files, np.array([1, 50, 3, 40])) == seen(reader, np.array([1, 50, 3, 40])) == [3, 1, 5, 6]
    reader.close()
    files.close()


@pytest.mark.parametrize("field", [3, 4])
def test_a_block_that_is_not_whole_is_not_believed(tmp_path: Path, field: int) -> None:
    files = filled(tmp_path, np.ones(5, np.int8))
    files.replace(np.array([3]), rows_of(2), versions(1))
    files._mapped.header[CHANGES] += 1
    files._mapped.pending_embedding[:] = 99
    files._mapped.header[field] = (1 << 64) - 1
    files.close()
    files = EmbeddingFiles(tmp_path, writable=True)
    assert seen(files, np.arange(6)) == [0, 1, 1, 2, 1, 1]
    files.recover(5)
    assert seen(files, np.arange(6)) == [0, 1, 1, 2, 1, 1]
    assert files._mapped.header[CHANGES] % 2 == 0
    files.close()


def test_what_lies_behind_the_rows_does_not_come_back(tmp_path: Path) -> None:
    files = filled(tmp_path, np.ones(5, np.int8))
    files.append(np.array([1, 2], np.uint64), rows_of(3, 3), versions(2))
    files.recover(4)
    files.publish(7)
    assert files.item_ids(1).tolist() == [0, 10, 20, 30]
    files.close()


def test_a_row_that_is_torn_ends_the_rows(tmp_path: Path) -> None:
    files = filled(tmp_path, np.ones(9, np.int8))
    files._mapped.items["item_id"][6] ^= np.uint64(1 << 40)
    assert files.item_ids(1).tolist() == [0, 10, 20, 30, 40]
    assert files.item_ids(7).tolist() == [60, 70, 80]
    files.publish((1 << 64) - 1)
    assert files.item_ids(7).tolist() == [60, 70, 80]
    files.close()


def applied(files: EmbeddingFiles, index: dict[int, int], rng: random.Random) -> list[tuple[int, int]]:
    """Write a few items, as the table does; return them as (item, value)."""
    batch = {rng.randrange(1 << 40): rng.randrange(1, 100) for _ in range(rng.randrange(400))}
    batch |= {item: rng.randrange(1, 100) for item in rng.sample(sorted(index), min(len(index), 300))}
    old = [item for item in batch if item in index]
    new = [item for item in batch if item not in index]
    files.replace(
        np.array([index[item] for item in old], np.int64), rows_of(*(batch[i] for i in old)), versions(len(old))
    )
    files.append(np.array(new, np.uint64), rows_of(*(batch[item] for item in new)), versions(len(new)))
    index |= {item: len(index) + 1 + at for at, item in enumerate(new)}
    files.publish(len(index))
    return list(batch.items())


def after_power_failure(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """Return a file as a power failure may leave it: each page that was written after the sync is there or not."""
    likely = rng.choice([0.0, 0.2, 0.5, 0.9, 1.0])
    length = rng.choice([len(old), len(new), rng.randrange(len(old), len(new) + 1)])
    old = old.ljust(len(new), b"\0")
    pages = [(new if rng.random() < likely else old)[at : at + PAGE] for at in range(0, len(new), PAGE)]
    return b"".join(pages)[:length]


@given(seed=st.integers(0, 1 << 32), killed=st.booleans())
@settings(max_examples=40)
def test_after_a_power_failure_the_log_completes_what_was_synced(
    tmp_path_factory: pytest.TempPathFactory, seed: int, killed: bool
) -> None:
    rng = random.Random(seed)
    path = tmp_path_factory.mktemp("files")
    files, index, log = EmbeddingFiles(path, writable=True), dict[int, int](), list[tuple[int, int]]()
    names = ("embeddings.bin", "items.bin")
    for _ in range(rng.randrange(4)):
        log += applied(files, index, rng)
    files.sync(SyncPoint(len(index), {0: len(log) - 1}))
    synced_rows, synced_log = len(index), len(log)
    old = {name: (path / name).read_bytes() for name in names}
    for _ in range(rng.randrange(1, 20)):
        log += applied(files, index, rng)
    if killed:
        files._mapped.header[CHANGES] += 1
    files.close()
    for name in names:
        (path / name).write_bytes(after_power_failure(old[name], (path / name).read_bytes(), rng))

    files = EmbeddingFiles(path, writable=True)
    assert files.synced() == (synced_rows, {0: synced_log - 1})
    item_ids = files.item_ids(1).tolist()
    assert item_ids[:synced_rows] == list(index)[:synced_rows]
    assert item_ids == list(index)[: len(item_ids)]
    files.recover(len(item_ids))
    found = {item: at + 1 for at, item in enumerate(item_ids)}
    for item, value in log[synced_log:]:
        if item in found:
            files.replace(np.array([found[item]]), rows_of(value), versions(1))
        else:
            files.append(np.array([item], np.uint64), rows_of(value), versions(1))
            found[item] = len(found) + 1
            files.publish(len(found))
    assert files.item_ids(1).tolist() == list(found)
    assert dict(zip(found, seen(files, np.array([*found.values()], np.int64)), strict=True)) == dict(log)
    files.close()


def test_a_file_that_may_not_grow_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    files = filled(tmp_path, np.ones(9, np.int8))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot be written .*: check the disk"):
            files.append(np.arange(50_000, dtype=np.uint64), np.ones((50_000, 32), np.int8), versions(50_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (files.rows, len(files.item_ids(1))) == (9, 9)
    files.append(np.array([77], np.uint64), rows_of(7), versions(1))
    files.publish(10)
    assert seen(files, np.array([10, 9])) == [7, 1]
    files.close()


def test_another_table_in_its_place_is_noticed(tmp_path: Path) -> None:
    writer = filled(tmp_path / "items", np.ones(2, np.int8))
    reader = EmbeddingFiles(tmp_path / "items", writable=False)
    assert not reader.was_replaced()
    (tmp_path / "items").rename(tmp_path / "aside")
    assert reader.was_replaced()
    filled(tmp_path / "items", np.zeros(1, np.int8)).close()
    assert reader.was_replaced()
    assert seen(reader, np.array([1, 2])) == [1, 1]
    reader.close()
    writer.close()


@given(st.lists(st.lists(st.sampled_from([0, 0, 0, 1, -128]), min_size=32, max_size=32), max_size=6))
def test_rows_with_anything_in_them_are_told_from_zeros(rows: list[list[int]]) -> None:
    embedding = np.array(rows, np.int8).reshape(-1, 32)
    assert nonzero_rows(embedding).tolist() == [any(row) for row in rows]
    assert nonzero_rows(np.asfortranarray(embedding)).tolist() == [any(row) for row in rows]


def test_the_matrix_lies_where_the_layout_says() -> None:
    assert embedding_files._MATRIX_AT == 299_008
    assert embedding_files._MATRIX_AT % PAGE == 0
