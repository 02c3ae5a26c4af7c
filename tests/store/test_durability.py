import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from rocksdict import Rdict

from lifeline.core.actions import ActionBatch
from lifeline.store.durability import GroupCommit
from lifeline.store.errors import StoreFailedError
from lifeline.store.partition import PartitionStore
from lifeline.store.reader import SequenceReader
from tests.support.factories import (
    ANN,
    BOB,
    EVERYTHING,
    SHAPE,
    Model,
    batch_of,
    open_store,
    outcome_of_waiting,
    perform,
)

POWER = SHAPE.model_copy(update={"durability": "power", "sync_every_ms": 1})


def eventually(condition: Callable[[], bool], within_s: float = 20) -> bool:
    """Look until a condition holds."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


class Disk:
    """A database whose flushes can be held, counted, or made to fail."""

    def __init__(self, real: Rdict) -> None:
        self.real = real
        self.syncs, self.fails = 0, False
        self.free = threading.Event()
        self.free.set()
        self.waiting = threading.Event()

    def flush_wal(self, sync: bool) -> None:
        assert sync
        self.waiting.set()
        self.free.wait(20)
        if self.fails:
            raise Exception("IO error: fsync: Input/output error")  # noqa: TRY002 - as rocksdict does
        self.syncs += 1
        self.real.flush_wal(sync)

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


def opened(path: Path, sync_every_ms: int = 1) -> tuple[PartitionStore, Disk]:
    """Return a store of durability power, and the disk under it."""
    store = open_store(path, POWER.model_copy(update={"sync_every_ms": sync_every_ms}))
    disk = Disk(store.database.db)
    store.database.db = cast("Rdict", disk)
    return store, disk


# Group commit


def test_one_sync_serves_all_that_was_asked_for_meanwhile() -> None:
    started, go, syncs = threading.Event(), threading.Event(), list[int]()

    def sync() -> None:
        started.set()
        go.wait(20)
        syncs.append(1)

    commits = GroupCommit(sync, 0.0, "t")
    commits.request()
    assert started.wait(20)
    for _ in range(50):
        commits.request()
    go.set()
    assert eventually(lambda: len(syncs) == 2)
    commits.close()
    # Closing syncs once more, whether there is something or not.
    assert 2 <= len(syncs) <= 3


def test_nothing_is_synced_unasked() -> None:
    syncs = list[int]()
    commits = GroupCommit(lambda: syncs.append(1), 0.0, "t")
    assert not eventually(lambda: bool(syncs), within_s=0.05)
    commits.request()
    assert eventually(lambda: len(syncs) == 1)
    commits.close()


def test_closing_does_not_wait_for_the_interval() -> None:
    syncs = list[int]()
    commits = GroupCommit(lambda: syncs.append(1), 60.0, "t")
    commits.request()
    assert eventually(lambda: len(syncs) == 1)
    commits.request()
    began = time.monotonic()
    commits.close()
    assert time.monotonic() - began < 10
    assert len(syncs) == 2


# Power


def test_what_is_applied_becomes_durable_by_itself(tmp_path: Path) -> None:
    store = open_store(tmp_path, POWER)
    assert store.durable_offset == store.applied_offset == -1
    store.apply(batch_of(ANN), offset=7)
    assert eventually(lambda: store.durable_offset == 7)
    store.erase(b"ann", offset=9)
    assert eventually(lambda: store.durable_offset == 9)
    store.apply(ActionBatch.empty(), offset=12)
    assert eventually(lambda: store.durable_offset == 12)
    store.close()


def test_durable_is_what_was_applied_before_the_sync_began(tmp_path: Path) -> None:
    store, disk = opened(tmp_path)
    store.apply(batch_of(ANN), offset=1)
    assert eventually(lambda: store.durable_offset == 1)
    disk.free.clear()
    disk.waiting.clear()
    store.apply(batch_of(BOB), offset=2)
    assert disk.waiting.wait(20)
    # This one comes while the sync of the one before is under way: no fsync speaks for it yet.
    store.apply(ActionBatch.empty(), offset=3)
    assert (store.applied_offset, store.durable_offset) == (3, 1)
    seen = list[int]()
    disk.fails = False
    disk.free.set()

    def all_synced() -> bool:
        seen.append(store.durable_offset)
        return seen[-1] == 3

    assert eventually(all_synced)
    assert set(seen) <= {1, 2, 3}
    store.close()


def test_durable_never_exceeds_applied(tmp_path: Path) -> None:
    store, disk = opened(tmp_path)
    done, wrong = threading.Event(), list[tuple[int, int]]()

    def watch() -> None:
        last = -1
        while not done.is_set():
            durable = store.durable_offset
            applied = store.applied_offset
            if not last <= durable <= applied:
                wrong.append((durable, applied))
            last = durable

    watching = threading.Thread(target=watch)
    watching.start()
    for offset in range(300):
        store.apply(batch_of(ANN[offset % 20 : offset % 20 + 3]), offset=offset)
    assert eventually(lambda: store.durable_offset == 299)
    done.set()
    watching.join(20)
    assert not wrong
    # Far fewer syncs than batches would be the point of it; here the interval is the least there is.
    assert 0 < disk.syncs <= 302
    store.close()


def test_syncs_are_shared_within_the_interval(tmp_path: Path) -> None:
    store, disk = opened(tmp_path, sync_every_ms=60_000)
    store.apply(ActionBatch.empty(), offset=0)
    assert eventually(lambda: store.durable_offset == 0)
    for offset in range(1, 200):
        store.apply(ActionBatch.empty(), offset=offset)
    assert (store.durable_offset, disk.syncs) == (0, 1)
    # Closing syncs the rest, and does not wait for the interval.
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 10
    assert (store.durable_offset, disk.syncs) == (199, 2)


def test_what_was_durable_is_there_again(tmp_path: Path) -> None:
    store, model = open_store(tmp_path, POWER), Model(SHAPE)
    for offset in range(80):
        perform(store, offset)
        perform(model, offset)
    store.close()
    assert store.durable_offset == 79
    again = open_store(tmp_path, POWER)
    assert again.durable_offset == again.applied_offset == 79
    model.check(again)
    again.close()


def test_a_sync_that_fails_fails_the_store(tmp_path: Path) -> None:
    # After a failed fsync nobody knows what is on the disk, whatever a later one says.
    store, disk = opened(tmp_path)
    store.apply(batch_of(ANN), offset=1)
    assert eventually(lambda: store.durable_offset == 1)
    outcome: list[str] = []
    waiting = threading.Thread(target=lambda: outcome.append(outcome_of_waiting(store)))
    waiting.start()
    disk.fails = True
    store.apply(batch_of(BOB), offset=2)
    waiting.join(20)
    assert outcome == ["StoreFailedError"]
    assert store.durable_offset == 1
    disk.fails = False
    for late in (
        lambda: store.apply(ActionBatch.empty(), offset=3),
        lambda: store.erase(b"ann", offset=3),
        lambda: SequenceReader(store).read("ann", EVERYTHING),
    ):
        with pytest.raises(StoreFailedError, match=r"fsync: Input/output error.*restart the node"):
            late()
    store.close()
    assert store.durable_offset == 1
    open_store(tmp_path, POWER).close()


# Process


def test_with_process_all_that_is_applied_is_as_durable_as_it_gets(store: PartitionStore) -> None:
    assert store.durable_offset == -1
    for offset in (3, 8):
        store.apply(batch_of(ANN), offset=offset)
        assert store.durable_offset == store.applied_offset == offset
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sync-")]
