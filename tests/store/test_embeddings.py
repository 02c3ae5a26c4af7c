import itertools
import json
import os
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

from lifeline.store.embedding_files import EmbeddingFiles
from lifeline.store.embeddings import Embeddings, EmbeddingTable, SecondaryEmbeddings
from lifeline.store.errors import StoreLockedError
from tests.support.embeddings import apply, check
from tests.support.processes import child, last_acknowledged, said

ROWS = st.lists(st.tuples(st.integers(0, 6) | st.integers(0, (1 << 64) - 1), st.integers(-127, 127)), max_size=12)


@given(batches=st.lists(ROWS, max_size=6), reopen=st.integers(0, 6), follow=st.integers(0, 6))
@settings(max_examples=60)
def test_the_last_row_wins_and_zeros_forget(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]], reopen: int, follow: int
) -> None:
    path = tmp_path_factory.mktemp("table")
    table, model, version = EmbeddingTable.open(path), dict[int, int](), dict[int, int]()
    follower = SecondaryEmbeddings.open(path)
    for number, rows in enumerate(batches):
        if number == reopen:
            table.close()
            table = EmbeddingTable.open(path)
        if number == follow:
            follower.close()
            follower = SecondaryEmbeddings.open(path)
        known = dict(model)
        apply(table, rows, number)
        model |= dict(rows)
        version |= {item: at for at, (item, _) in enumerate(rows)}
        check(table, model)
        assert table.versions(table.rows_of(np.array([*version, 1 << 63], np.uint64))).tolist() == [
            *version.values(),
            version.get(1 << 63, 0),
        ]
        assert table.applied_offset(0) == number
        assert len(table) == len(model)
        # What a follower knows is as it is now; what it does not know it learns.
        check(follower, {item: model[item] for item in known})
        assert follower.staleness()[:2] == (len(known), len(model) - len(known))
        assert follower.catch_up()[:2] == (len(model), 0)
        check(follower, model)
    follower.close()
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
    # At the moments in which the file grows and rows are published, others may already look for the new items.
    table, follower = EmbeddingTable.open(tmp_path), SecondaryEmbeddings.open(tmp_path)
    new = np.arange(1, 9_000, dtype=np.uint64)
    seen: list[NDArray[np.bool_]] = []
    moments: list[str] = []

    def watched(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def watch(files: EmbeddingFiles, *arguments: object) -> object:
            if files is not table._files:
                return real(files, *arguments)
            moments.append(name)
            # An item that is named has its embedding.
            for embeddings in (table, follower):
                embedding, known = embeddings.lookup(new)
                rows = embeddings.rows_of(new)
                assert (known == (rows > 0)).all()
                assert (embedding[known] == 1).all()
            follower.catch_up()
            seen.append(known)
            return real(files, *arguments)

        return watch

    for name in ("_map", "_grow", "append", "publish"):
        monkeypatch.setattr(EmbeddingFiles, name, watched(name, getattr(EmbeddingFiles, name)))
    apply(table, [(item, 1) for item in new.tolist()], 0)
    assert moments == ["append", "_grow", "_map", "publish"]
    assert not any(known.any() for known in seen)
    assert table.lookup(new)[1].all()
    follower.catch_up()
    assert follower.lookup(new)[1].all()
    follower.close()
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


def test_a_new_version_of_everything_changes_what_every_reader_gives(tmp_path: Path) -> None:
    table = EmbeddingTable.open(tmp_path)
    ids = np.random.default_rng(0).permutation(np.arange(1, 30_001, dtype=np.uint64)) * np.uint64(1 << 33)

    def publish(version: int) -> None:
        values = ((ids >> np.uint64(33)) % np.uint64(50) + np.uint64(version)).astype(np.int8)
        embedding = np.repeat(values, 32).reshape(-1, 32)
        table.apply(ids, embedding, np.full(len(ids), version, np.uint32), partition=0, offset=version)

    publish(1)
    follower = SecondaryEmbeddings.open(tmp_path)
    # Rows that readers looked up before go on to hold.
    held = table.rows_of(ids[::-7])
    assert follower.rows_of(ids[::-7]).tolist() == held.tolist()
    for version in (2, 60, 3):
        publish(version)
        for embeddings in (table, follower):
            assert embeddings.versions(held).tolist() == [version] * len(held)
            expected = (ids[::-7] >> np.uint64(33)) % np.uint64(50) + np.uint64(version)
            assert (embeddings.gather(held) == expected.astype(np.int8)[:, None]).all()
            embedding, known = embeddings.lookup(ids)
            assert known.all()
            assert embedding[::-7].tolist() == embeddings.gather(held).tolist()
    follower.close()
    table.close()


PUBLISHER = """
import sys
from pathlib import Path
from lifeline.store.embeddings import EmbeddingTable
from tests.support.embeddings import apply
table = EmbeddingTable.open(Path(sys.argv[1]))
print("ready", flush=True)
for line in open(sys.argv[2]):
    first, end, value, offset = map(int, line.split())
    apply(table, [(item, value) for item in range(first, end)], offset)
    if offset % 2:
        table.sync()
    print("applied", len(table), flush=True)
"""


def test_another_process_sees_new_items_and_new_versions(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    os.mkfifo(orders)
    with child(PUBLISHER, tmp_path, orders) as process:
        said(process, "ready")
        follower = SecondaryEmbeddings.open(tmp_path)
        ordering = orders.open("w", buffering=1)

        def publish(first: int, end: int, value: int, offset: int) -> None:
            ordering.write(f"{first} {end} {value} {offset}\n")
            said(process, "applied")

        assert follower.staleness()[:3] == (0, 0, {})
        publish(1, 3_001, 5, 0)
        assert follower.staleness()[:2] == (0, 3_000)
        check(follower, {})
        # What is shown at once is said to be applied only after the writer's sync.
        assert follower.catch_up()[:3] == (3_000, 0, {})
        check(follower, {1: 5, 3_000: 5})
        publish(1, 3_001, 6, 1)
        check(follower, {1: 6, 3_000: 6})
        publish(2_000, 20_001, 7, 3)
        check(follower, {1: 6, 3_000: 7})
        assert follower.staleness()[:3] == (3_000, 17_000, {})
        caught_up = follower.catch_up()
        assert caught_up[:3] == (20_000, 0, {0: 3})
        assert caught_up.seconds <= follower.staleness().seconds
        check(follower, {1: 6, 3_000: 7, 20_000: 7})
        with pytest.raises(StoreLockedError):
            EmbeddingTable.open(tmp_path)
    ordering.close()
    # The child was killed: what it had written is there.
    check(follower, {1: 6, 3_000: 7, 20_000: 7})
    table = EmbeddingTable.open(tmp_path)
    assert (len(table), table.applied_offset(0)) == (20_000, 3)
    apply(table, [(20_000, 9), (20_001, 9)], 4)
    follower.catch_up()
    check(follower, {1: 6, 3_000: 7, 20_000: 9, 20_001: 9})
    follower.close()
    table.close()


HALF = """
import sys
from pathlib import Path
import time
import numpy as np
from lifeline.store.embedding_files import EmbeddingFiles
from lifeline.store.embeddings import EmbeddingTable
from tests.support.embeddings import apply
def put(matrix, rows, embedding):
    matrix[rows[:3]] = embedding[:3]
    matrix[rows[3:], :16] = embedding[3:, :16]
    print("half", flush=True)
    time.sleep(600)
table = EmbeddingTable.open(Path(sys.argv[1]))
apply(table, [(item, 1) for item in range(1, 9)], 0)
table.sync()
EmbeddingFiles._put = staticmethod(put)
apply(table, [(item, 2) for item in range(1, 9)] + [(9, 9)], 1)
"""


def test_a_process_killed_half_way_through_a_change_leaves_whole_rows(tmp_path: Path) -> None:
    model = dict.fromkeys(range(1, 9), 2)
    with child(HALF, tmp_path) as process:
        said(process, "half")
        follower = SecondaryEmbeddings.open(tmp_path)
        check(follower, model)
    check(follower, model)
    table = EmbeddingTable.open(tmp_path)
    assert (len(table), table.applied_offset(0)) == (8, 0)
    check(table, model)
    # The log gives the record again, and with it what the process did not come to.
    apply(table, [(item, 2) for item in range(1, 9)] + [(9, 9)], 1)
    check(table, model | {9: 9})
    follower.catch_up()
    check(follower, model | {9: 9})
    follower.close()
    table.close()


APPLIER = """
import sys
from pathlib import Path
from lifeline.store.embeddings import EmbeddingTable
from tests.store.test_embeddings import made
from tests.support.embeddings import apply
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


@pytest.mark.slow
def test_a_killed_process_leaves_a_table_that_reading_again_completes(tmp_path: Path) -> None:
    rng = random.Random(5)
    reached = -1
    EmbeddingTable.open(tmp_path).close()
    follower = SecondaryEmbeddings.open(tmp_path)
    for _ in range(4):
        with child(APPLIER, tmp_path) as process:
            applied = int(said(process, "ready"))
            # What was synced may lag behind what was applied, never run ahead of it.
            assert applied <= reached
            time.sleep(rng.uniform(0.02, 0.25))
            follower.catch_up()
            reached = max(reached, last_acknowledged(process, applied) + 1)
        assert all(offset <= reached for offset in follower.catch_up().offsets.values())
    table, model = EmbeddingTable.open(tmp_path), dict[int, int]()
    assert 0 < table.applied_offset(0) <= reached
    # No row that was published is given to another item, so a follower's rows hold through it all.
    assert table._index.ids[: len(follower)].tolist() == follower._index.ids.tolist()
    for offset in range(table.applied_offset(0) + 1, reached + 1):
        apply(table, made(offset), offset)
    for offset in range(reached + 1):
        model |= dict(made(offset))
    assert len(table) == len(model)
    check(table, model)
    follower.catch_up()
    check(follower, model)
    follower.close()
    table.close()


def test_no_row_is_seen_half_written(tmp_path: Path) -> None:
    table, follower = EmbeddingTable.open(tmp_path), SecondaryEmbeddings.open(tmp_path)
    ids = list(range(1, 5_001))
    apply(table, [(item, 1) for item in ids], 0)
    follower.catch_up()
    done, wrong, reads = threading.Event(), list[str](), itertools.count()

    def read(source: Embeddings) -> None:
        while not done.is_set():
            embedding = source.gather(np.arange(1, 5_001))
            if (embedding.min(axis=1) != embedding.max(axis=1)).any():
                wrong.append("half a row")
            next(reads)

    readers = [threading.Thread(target=read, args=[source]) for source in (table, follower)]
    for reader in readers:
        reader.start()
    embeddings = [np.full((5_000, 32), value, np.int8) for value in (-77, 99)]
    for at in range(150):
        table.apply(
            np.array(ids, np.uint64), embeddings[at % 2], np.zeros(5_000, np.uint32), partition=0, offset=at + 1
        )
    done.set()
    for reader in readers:
        reader.join(20)
    assert not wrong
    assert next(reads) > 2
    follower.close()
    table.close()


def test_what_is_applied_during_a_sync_is_synced_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = EmbeddingTable.open(tmp_path, sync_every_s=1e9)
    apply(table, [(1, 1)], 0)
    real, syncs = os.fsync, list[int]()

    def fsync(file: int) -> None:
        if table.applied_offset(0) == 0:
            apply(table, [(2, 2)], 1)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(3):
        table.sync()
        syncs.append(json.loads((tmp_path / "embeddings.json").read_text())["offsets"]["0"])
    assert syncs == [0, 1, 1]
    (tmp_path / "embeddings.json").unlink()
    table.sync()
    assert not (tmp_path / "embeddings.json").exists()
    table.close()


def test_a_million_items(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permutation(np.arange(1_000_000, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    embedding = np.random.default_rng(1).integers(-127, 128, (len(ids), 32), dtype=np.int8)
    table = EmbeddingTable.open(tmp_path, sync_every_s=1e9)
    for at in range(0, len(ids), 100_000):
        part = slice(at, at + 100_000)
        table.apply(ids[part], embedding[part], np.ones(100_000, np.uint32), partition=0, offset=at)
    table.close()
    for opened in (EmbeddingTable.open(tmp_path), SecondaryEmbeddings.open(tmp_path)):
        assert len(opened) == 1_000_000
        rows = opened.rows_of(ids)
        assert np.array_equal(rows, np.arange(1, 1_000_001))
        assert np.array_equal(opened.gather(rows), embedding)
        assert not opened.rows_of(ids[:10_000] + np.uint64(1)).any()
        opened.close()
