"""Batches that fail, at their write or before it: the open store goes on as if they had never been tried."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rocksdict import Rdict, WriteBatch

from lifeline.core.actions import ActionBatch
from lifeline.store import batch_editor
from lifeline.store.batch_editor import BatchEditor
from lifeline.store.database import ITEMS_BLOCK, PartitionDatabase
from lifeline.store.disk_space import DiskSpace
from lifeline.store.errors import DiskFullError, StoreError, StoreFailedError
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.sequence_editor import SequenceEditor
from tests.support.factories import (
    AGED,
    ANN,
    BOB,
    HOUR_MS,
    SHAPE,
    Event,
    Model,
    batch_of,
    open_store,
    perform,
    work,
)
from tests.support.mounts import can_mount, small_disk, used

_NO_SPACE = "IO error: No space left on device: While appending to file"


class Place(NamedTuple):
    """Where a batch fails: after a function has done its work, so that what it changes has changed."""

    owner: Any
    name: str


PLACES = [
    Place(Rdict, "write"),
    Place(batch_editor, "pack_events"),
    Place(batch_editor, "get_many"),
    Place(BatchEditor, "insert"),
    Place(BatchEditor, "finish"),
    Place(BatchEditor, "erase"),
    Place(BatchEditor, "put"),
    Place(SequenceEditor, "insert"),
    Place(SequenceEditor, "finish"),
    Place(PartitionDatabase, "put_new_items"),
]


class FullDisk:
    """A database that has no room for a write."""

    def __init__(self, real: Rdict) -> None:
        self.real = real

    def write(self, batch: WriteBatch) -> None:
        del batch
        raise Exception(_NO_SPACE)  # noqa: TRY002 - as rocksdict does

    def close(self) -> None:
        self.real.close()


@contextmanager
def failing(store: PartitionStore, place: Place, error: BaseException, left: int) -> Iterator[None]:
    """Let a function raise `error` at the end of its call number `left`."""
    with pytest.MonkeyPatch.context() as patching:
        if place.owner is Rdict:
            patching.setattr(store.database, "db", FullDisk(store.database.db))
        else:
            real: Callable[..., Any] = getattr(place.owner, place.name)
            calls = iter(range(left, -1, -1))

            def fail(*arguments: Any) -> Any:
                done = real(*arguments)
                if next(calls, 0) == 0:
                    raise error
                return done

            patching.setattr(place.owner, place.name, fail)
        yield


def check(store: PartitionStore, model: Model) -> None:
    """Assert that a store holds exactly what its model says, in memory too."""
    model.check(store)
    assert store.memory.items.used == store.items
    heads = store._heads._records
    assert heads == {prefix: store.database.rows.get(prefix) for prefix in heads}
    assert store._heads.bytes == store.memory.heads.statistics().bytes
    ids = store.database.items
    assert ids.find(ids.ids).tolist() == list(range(len(ids)))
    assert not store.database.has_failed


@pytest.mark.parametrize(("shape", "step_ms"), [(SHAPE, 1_000), (AGED, 7 * HOUR_MS)])
@pytest.mark.parametrize("seed", range(4))
def test_failures_at_every_place_change_nothing(tmp_path: Path, shape: Any, step_ms: int, seed: int) -> None:
    rng, store, model = random.Random(seed), open_store(tmp_path / "p", shape), Model(shape)
    failures = 0
    for offset in range(110):
        while rng.random() < 0.6:
            before = store.state, store.items, store.totals, store.written_bytes
            place = rng.choice(PLACES)
            error = rng.choice([Exception("IO error: Input/output error"), MemoryError(), KeyboardInterrupt()])
            # Another batch than the one that will have this offset, or the same one.
            tried = rng.choice([offset, offset + 20])
            try:
                with failing(store, place, error, rng.choice([0, 0, 0, 0, 1, 4])):
                    if offset % 37 == 36:
                        store.erase(b"ann", offset=offset)
                    else:
                        store.apply(batch_of(work(tried, step_ms)), offset=offset)
            except (StoreError, KeyboardInterrupt) as caught:
                failures += 1
                is_full = isinstance(caught, DiskFullError)
            else:
                # The place was not reached: this offset is taken.
                if offset % 37 == 36:
                    model.erase(b"ann")
                else:
                    model.apply(work(tried, step_ms))
                break
            assert is_full == (place.owner is Rdict)
            assert (store.state, store.items, store.totals, store.written_bytes) == before
        else:
            perform(store, offset, step_ms)
            perform(model, offset, step_ms)
        if offset % 11 == 0:
            check(store, model)
    assert failures > 25
    check(store, model)
    store.close()
    again = open_store(tmp_path / "p", shape)
    model.check(again)
    again.close()


def test_items_of_batches_that_failed_leave_no_gap_in_the_blocks(tmp_path: Path) -> None:
    store, model, rng = open_store(tmp_path, SHAPE), Model(SHAPE), random.Random(3)
    for offset in range(12):
        batches = [
            [Event(b"ann", at, rng.randrange(1 << 63), 257) for at in range(rng.choice([3, 900, ITEMS_BLOCK + 5]))]
            for _ in range(2)
        ]
        with failing(store, PLACES[0], Exception(), 0), pytest.raises(DiskFullError):
            store.apply(batch_of(batches[0]), offset=offset)
        store.apply(batch_of(batches[1]), offset=offset)
        model.apply(batches[1])
        check(store, model)
    ids = store.database.items.ids.copy()
    store.close()
    again = open_store(tmp_path, SHAPE)
    assert len(ids) > 2 * ITEMS_BLOCK
    assert np.array_equal(again.database.items.ids, ids)
    model.check(again)
    again.close()


def test_a_full_disk_keeps_reads_and_waits(tmp_path: Path) -> None:
    store, model = open_store(tmp_path, SHAPE), Model(SHAPE)
    store.apply(batch_of(ANN), offset=3)
    model.apply(ANN)
    with failing(store, PLACES[0], Exception(), 0):
        for _ in range(3):
            with pytest.raises(
                DiskFullError, match=rf"partition 3 \({_NO_SPACE}\): free 64 MiB or more on the disk of {tmp_path}"
            ):
                store.apply(batch_of(BOB), offset=4)
            model.check(store)
    store.apply(batch_of(BOB), offset=4)
    model.apply(BOB)
    store.wait_for(4, 0.0)
    model.check(store)
    store.close()


def test_an_error_after_the_write_fails_the_store(tmp_path: Path) -> None:
    # Memory is behind the disk then.
    store = open_store(tmp_path, SHAPE)
    store.apply(batch_of(ANN), offset=3)
    with failing(store, Place(BatchEditor, "cache_heads"), MemoryError(), 0), pytest.raises(StoreError, match="Memory"):
        store.apply(batch_of(BOB), offset=4)
    with pytest.raises(StoreFailedError, match="restart the node"):
        store.apply(ActionBatch.empty(), offset=5)
    assert store.memory.items.used == store.items
    store.close()
    again, model = open_store(tmp_path, SHAPE), Model(SHAPE)
    model.apply(ANN)
    model.apply(BOB)
    model.check(again)
    again.close()


def test_an_interrupted_write_fails_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody knows whether it is on the disk.
    store = open_store(tmp_path, SHAPE)

    class Interrupted(FullDisk):
        def write(self, batch: WriteBatch) -> None:
            self.real.write(batch)
            raise KeyboardInterrupt

    monkeypatch.setattr(store.database, "db", Interrupted(store.database.db))
    with pytest.raises(KeyboardInterrupt):
        store.apply(batch_of(ANN), offset=3)
    with pytest.raises(StoreFailedError):
        store.apply(batch_of(ANN), offset=3)
    store.close()
    again = open_store(tmp_path, SHAPE)
    assert again.applied_offset == 3
    again.close()


@pytest.mark.slow
def test_a_store_goes_on_once_its_disk_has_room(tmp_path: Path) -> None:
    if not can_mount(tmp_path / "probe"):
        pytest.skip("this user may not mount a filesystem: run the tests as root for that")
    with small_disk(tmp_path / "disk", 64 << 20) as resize:
        memory = SharedMemory(SHAPE)
        store = PartitionStore.open(tmp_path / "disk" / "p", partition=3, settings=SHAPE, memory=memory)
        model, offset, failures = Model(SHAPE), 0, 0
        for _ in range(50):
            perform(store, offset)
            perform(model, offset)
            offset += 1
        resize(used(tmp_path / "disk") + 50_000)
        while failures < 3:
            try:
                store.apply(batch_of(work(offset)), offset=offset)
            except DiskFullError:
                failures += 1
                model.check(store)
            else:
                model.apply(work(offset))
                offset += 1
        resize(256 << 20)
        while True:
            try:
                store.apply(batch_of(work(offset)), offset=offset)
                break
            except DiskFullError:
                # RocksDB looks for room every five seconds.
                assert not store.database.has_failed
        model.apply(work(offset))
        check(store, model)
        store.close()
        again = open_store(tmp_path / "disk" / "p", SHAPE)
        model.check(again)
        again.close()


class Clock:
    def __init__(self) -> None:
        self.now, self.free = 100.0, 0

    def disk_usage(self, path: Path) -> Any:  # noqa: ARG002
        return shutil._ntuple_diskusage(1, 1, self.free)


def test_a_database_that_stays_shut_although_there_is_room_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, space, full = Clock(), DiskSpace(tmp_path), Exception(_NO_SPACE)
    monkeypatch.setattr("lifeline.store.disk_space.time.monotonic", lambda: clock.now)
    monkeypatch.setattr("lifeline.store.disk_space.shutil.disk_usage", clock.disk_usage)
    for free, seconds in ((0, 1000.0), (1 << 30, 29.0), (0, 29.0), (1 << 30, 29.0)):
        clock.free = free
        assert space.may_return(full)
        clock.now += seconds
        assert space.may_return(full)
    space.on_write()
    assert [space.is_short, space.may_return(full)] == [False, True]
    clock.now += 31
    assert [space.may_return(full), space.is_short] == [False, True]
    assert [space.may_return(Exception("IO error: File too large")), space.is_short] == [False, False]
