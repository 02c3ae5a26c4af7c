from pathlib import Path

import numpy as np
import pytest

from lifeline.store.errors import ItemLimitError, StoreError
from lifeline.store.id_index import IdIndex
from lifeline.store.item_budget import ITEM_BYTES, ItemBudget
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from tests.support.factories import Event, Model, batch_of, tiny

SETTINGS = tiny(max_explicit=40, max_items=10)


def on(user: bytes, *item_ids: int, at: int = 0) -> list[Event]:
    return [Event(user, at + number, item, 257) for number, item in enumerate(item_ids)]


def opened(path: Path, memory: SharedMemory, partition: int = 0) -> PartitionStore:
    return PartitionStore.open(path, partition=partition, settings=SETTINGS, memory=memory)


def test_a_batch_without_room_changes_nothing_and_known_items_go_on(tmp_path: Path) -> None:
    memory = SharedMemory(SETTINGS)
    store = opened(tmp_path, memory)
    store.apply(batch_of(on(b"ann", *range(8))), offset=0)
    before = store.state
    too_many = batch_of(on(b"bob", 7, 8, 8, 9, 10))
    for _ in range(2):
        with pytest.raises(ItemLimitError, match=r"8 item ids of 10 \(store\.max_items\).* 3 new ones") as caught:
            store.apply(too_many, offset=1)
        assert (caught.value.used, caught.value.new, caught.value.limit) == (8, 3, 10)
        assert (store.state, store.items, memory.items.used) == (before, 8, 8)
    # Repeats are no new items, and the bound itself is reached.
    store.apply(batch_of(on(b"bob", *(3 * [0, 1, 2, 3]), 8, 8, 9)), offset=1)
    assert (store.items, memory.items.used) == (10, 10)
    store.apply(batch_of(on(b"cy", *range(10), at=50)), offset=2)
    assert store.erase(b"cy", offset=3) == 10
    with pytest.raises(ItemLimitError):
        store.apply(batch_of(on(b"cy", 10)), offset=4)
    assert store.applied_offset == 3
    store.close()
    assert memory.items.used == 0


def test_partitions_of_a_process_share_the_room_and_give_it_back(tmp_path: Path) -> None:
    memory = SharedMemory(SETTINGS)
    first, second = opened(tmp_path / "0", memory), opened(tmp_path / "1", memory, partition=1)
    first.apply(batch_of(on(b"ann", *range(6))), offset=0)
    second.apply(batch_of(on(b"bob", *range(4))), offset=0)
    for store in (first, second):
        with pytest.raises(ItemLimitError, match=rf"partition {store.partition} "):
            store.apply(batch_of(on(b"cy", 99)), offset=1)
    first.close()
    first.close()
    assert memory.items.used == 4
    second.apply(batch_of(on(b"cy", *range(10, 16))), offset=1)
    # What is there is opened and read, room or not.
    first = opened(tmp_path / "0", memory)
    assert (memory.items.used, first.state.events) == (16, 6)
    with pytest.raises(StoreError):
        first.apply(batch_of(on(b"cy", 99)), offset=1)
    first.apply(batch_of(on(b"cy", 0, 1)), offset=1)
    first.close()
    second.close()


def test_a_bound_leaves_no_trace_in_the_state(tmp_path: Path) -> None:
    """A copy that was held up goes on, given room, to the state of one that was not."""
    model, memory = Model(SETTINGS), SharedMemory(tiny(max_explicit=40))
    batches = [on(b"ann", *range(9)), on(b"bob", *range(5, 20)), on(b"ann", 30, at=90)]
    bounded = opened(tmp_path, SharedMemory(SETTINGS))
    bounded.apply(batch_of(batches[0]), offset=0)
    with pytest.raises(ItemLimitError):
        bounded.apply(batch_of(batches[1]), offset=1)
    bounded.close()
    store = opened(tmp_path, memory)
    for offset, batch in enumerate(batches):
        model.apply(batch)
        if offset:
            store.apply(batch_of(batch), offset=offset)
    assert store.fingerprint == model.fingerprint
    store.close()


def test_without_a_bound_nothing_is_refused() -> None:
    ItemBudget(None).check(0, IdIndex(), np.arange(1_000, dtype=np.uint64))


@pytest.mark.parametrize("count", [1 << 17, (1 << 17) + 1, 200_000])
def test_an_id_takes_the_memory_that_is_reckoned_with(count: int) -> None:
    known = IdIndex()
    for start in range(0, count, 10_000):
        known.add(np.arange(start, min(count, start + 10_000), dtype=np.uint64) * np.uint64(7_919))
    assert len(known) == count
    assert ITEM_BYTES / 2 <= (known._ids.nbytes + known._table.nbytes) / count <= ITEM_BYTES + 0.1
