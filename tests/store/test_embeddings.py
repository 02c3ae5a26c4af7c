import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from store.embeddings import EmbeddingTable
from store.errors import CorruptRecordError, FormatVersionError
from tests.store.processes import child, last_acknowledged, said

ROWS = st.lists(st.tuples(st.integers(0, 6) | st.integers(0, (1 << 64) - 1), st.integers(-127, 127)), max_size=12)


def apply(table: EmbeddingTable, rows: list[tuple[int, int]], offset: int, partition: int = 0) -> None:
    """Apply (item, value) rows: an embedding is its value 32 times, and 0 forgets."""
    table.apply(
        np.array([item for item, _ in rows], np.uint64),
        np.repeat(np.array([value for _, value in rows], np.int8), 32).reshape(-1, 32),
        np.arange(len(rows), dtype=np.uint32),
        partition=partition,
        offset=offset,
    )


def check(table: EmbeddingTable, model: dict[int, int]) -> None:
    absent = next(item for item in itertools.count() if item not in model)
    ids = np.array([*model, absent], np.uint64)
    embedding, known = table.lookup(ids)
    assert embedding.dtype == np.int8
    assert embedding.shape == (len(ids), 32)
    assert embedding.min(axis=1).tolist() == embedding.max(axis=1).tolist() == [*model.values(), 0]
    assert known.tolist() == [*(value != 0 for value in model.values()), False]


@given(batches=st.lists(ROWS, max_size=6), reopen=st.integers(0, 6))
@settings(deadline=None, max_examples=60)
def test_the_last_row_wins_and_zeros_forget(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]], reopen: int
) -> None:
    path = tmp_path_factory.mktemp("table")
    table, model = EmbeddingTable.open(path), dict[int, int]()
    for number, rows in enumerate(batches):
        if number == reopen:
            table.close()
            table = EmbeddingTable.open(path)
        apply(table, rows, number)
        model |= dict(rows)
        check(table, model)
        assert table.applied_offset(0) == number
        assert len(table) == len(model)
    table.close()
    table = EmbeddingTable.open(path)
    check(table, model)
    table.close()


def test_each_partition_has_an_offset_of_its_own(tmp_path: Path) -> None:
    table = EmbeddingTable.open(tmp_path)
    assert table.applied_offset(0) == -1
    apply(table, [(1, 5)], 7, partition=2)
    apply(table, [], 9, partition=0)
    table.close()
    table = EmbeddingTable.open(tmp_path)
    assert [table.applied_offset(number) for number in range(4)] == [9, -1, 7, -1]
    table.close()
    table.close()


def test_rows_never_move_and_0_is_nothing(tmp_path: Path) -> None:
    table = EmbeddingTable.open(tmp_path)
    ids = np.arange(100, dtype=np.uint64) * np.uint64(1 << 50)
    apply(table, [(int(item), 3) for item in ids], 0)
    rows = table.rows_of(ids)
    apply(table, [(item, 4) for item in range(10_000)], 1)
    assert table.rows_of(ids).tolist() == rows.tolist()
    assert table.rows_of(np.array([1 << 63], np.uint64)).tolist() == [0]
    assert not table.gather(np.array([0, 0])).any()
    table.close()


def test_growing_keeps_what_readers_hold(tmp_path: Path) -> None:
    table = EmbeddingTable.open(tmp_path)
    apply(table, [(1, 11)], 0)
    held = table.gather(table.rows_of(np.array([1], np.uint64)))
    for number in range(4):
        apply(table, [(item, 12) for item in range(2, 3_000 * (number + 1))], number + 1)
    assert (held == 11).all()
    check(table, {1: 11, 2: 12, 11_999: 12, 12_000: 0})
    table.close()
    table = EmbeddingTable.open(tmp_path)
    assert len(table) == 11_999
    check(table, {1: 11, 2: 12, 11_999: 12, 12_000: 0})
    table.close()


def test_a_row_is_mapped_before_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # At the moment in which the file grows, a reader may already look for the new items.
    table = EmbeddingTable.open(tmp_path)
    new = np.arange(1, 9_000, dtype=np.uint64)
    seen: list[NDArray[np.bool_]] = []
    real = table._map_rows

    def map_rows() -> None:
        seen.append(table.lookup(new)[1])
        real()
        seen.append(table.lookup(new)[1])

    monkeypatch.setattr(table, "_map_rows", map_rows)
    apply(table, [(item, 1) for item in new.tolist()], 0)
    assert len(seen) == 2
    assert not any(known.any() for known in seen)
    assert table.lookup(new)[1].all()
    table.close()


def test_readers_live_through_growth(tmp_path: Path) -> None:
    table = EmbeddingTable.open(tmp_path)
    done, wrong = threading.Event(), list[str]()

    def read() -> None:
        while not done.is_set():
            at_least = len(table)
            ids = np.arange(max(1, at_least - 50), at_least + 2_000, dtype=np.uint64)
            try:
                embedding, known = table.lookup(ids)
            except Exception as error:
                wrong.append(repr(error))
                raise
            expected = (ids % np.uint64(100) + np.uint64(1)).astype(np.int8)
            if not (embedding[known] == expected[known][:, None]).all():
                wrong.append("the embedding of another item")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    readers = [threading.Thread(target=read) for _ in range(2)]
    try:
        for reader in readers:
            reader.start()
        for at in range(1, 60_000, 997):
            apply(table, [(item, item % 100 + 1) for item in range(at, at + 997)], at)
    finally:
        done.set()
        for reader in readers:
            reader.join(20)
        sys.setswitchinterval(before)
        table.close()
    assert not wrong


APPLIER = """
import sys
from pathlib import Path
from store.embeddings import EmbeddingTable
from tests.store.test_embeddings import apply, made
table = EmbeddingTable.open(Path(sys.argv[1]), sync_every_s=0.01)
print("ready", table.applied_offset(0), flush=True)
at = table.applied_offset(0) + 1
while True:
    apply(table, made(at), at)
    print(at, flush=True)
    at += 1
"""


def made(offset: int) -> list[tuple[int, int]]:
    """Return the rows of one offset: new items, new embeddings of old ones, forgotten ones."""
    rng = random.Random(offset)
    return [(rng.randrange(20 * offset + 20), rng.choice([0, *range(-127, 128)])) for _ in range(40)]


def test_a_killed_process_leaves_a_table_that_reading_again_completes(tmp_path: Path) -> None:
    rng = random.Random(5)
    reached = -1
    for _ in range(4):
        with child(APPLIER, tmp_path) as process:
            applied = int(said(process, "ready"))
            # What was synced may lag behind what was applied, never run ahead of it.
            assert applied <= reached
            time.sleep(rng.uniform(0.02, 0.25))
            reached = max(reached, last_acknowledged(process, applied) + 1)
    table, model = EmbeddingTable.open(tmp_path), dict[int, int]()
    assert 0 < table.applied_offset(0) <= reached
    for offset in range(table.applied_offset(0) + 1, reached + 1):
        apply(table, made(offset), offset)
    for offset in range(reached + 1):
        model |= dict(made(offset))
    assert len(table) == len(model)
    check(table, model)
    table.close()


def _with_state(**changes: object) -> Callable[[Path], None]:
    def tamper(path: Path) -> None:
        state = path / "embeddings.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | changes))

    return tamper


def _cut(name: str, size: int) -> Callable[[Path], None]:
    def tamper(path: Path) -> None:
        with (path / name).open("r+b") as file:
            file.truncate(size)

    return tamper


@pytest.mark.parametrize(
    "tamper",
    [
        _cut("embeddings.json", 0),
        _cut("embeddings.json", 12),
        _with_state(rows="many"),
        _with_state(rows=None),
        _with_state(rows=1 << 40),
        _with_state(rows=-3),
        _with_state(rows=float("inf")),
        _with_state(rows=60),
        _with_state(offsets=[1]),
        _with_state(offsets={"zero": 1}),
        lambda path: (path / "embeddings.json").write_bytes(b"\xff\xfe\x00"),
        lambda path: (path / "embeddings.json").write_text("[]"),
        _cut("embeddings.bin", 8),
        _cut("embeddings.bin", 4_096 + 20 * 48),
        _cut("embeddings.bin", 4_096 + 100 * 48 + 7),
    ],
    ids=[
        "state-empty", "state-cut", "rows-text", "rows-null", "rows-beyond-the-file", "rows-negative",
        "rows-infinite", "rows-never-written", "offsets-a-list", "offsets-not-numbers", "state-not-text",
        "state-a-list", "data-cut-to-the-magic", "data-cut", "data-cut-inside-a-row",
    ],
)  # fmt: skip
def test_files_that_were_tampered_with_are_refused(tmp_path: Path, tamper: Callable[[Path], None]) -> None:
    table = EmbeddingTable.open(tmp_path)
    apply(table, [(item, 1) for item in range(1, 50)], 0)
    table.close()
    tamper(tmp_path)
    with pytest.raises(CorruptRecordError):
        EmbeddingTable.open(tmp_path)


@pytest.mark.parametrize("where", ["state", "state-with-other-fields", "data"])
def test_a_format_of_the_future_is_refused(tmp_path: Path, where: str) -> None:
    table = EmbeddingTable.open(tmp_path)
    apply(table, [(1, 1)], 0)
    table.close()
    if where == "data":
        with (tmp_path / "embeddings.bin").open("r+b") as file:
            file.write(b"LLEMBED\x02")
    else:
        fields = {"format": 2} if where == "state-with-other-fields" else {"format": 2, "rows": 1, "offsets": {}}
        (tmp_path / "embeddings.json").write_text(json.dumps(fields))
    with pytest.raises(FormatVersionError):
        EmbeddingTable.open(tmp_path)


def test_a_state_without_its_rows_starts_anew(tmp_path: Path) -> None:
    table = EmbeddingTable.open(tmp_path)
    apply(table, [(1, 1)], 41)
    table.close()
    (tmp_path / "embeddings.bin").unlink()
    table = EmbeddingTable.open(tmp_path)
    assert (len(table), table.applied_offset(0)) == (0, -1)
    table.close()
