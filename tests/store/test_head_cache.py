import random
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.actions import Kind
from lifeline.store import keys
from lifeline.store.chunk import EventColumns
from lifeline.store.head import Head
from lifeline.store.head_cache import ENTRY_BYTES, DecodedParts, HeadCache, HeadShare
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from tests.support.factories import Event, Model, batch_of, tiny

NAMES = [bytes([letter]) for letter in b"abcdefgh"]
RECORD = Head().pack()
BARE = ENTRY_BYTES + 1 + len(RECORD)
"""What a head without events takes, under a key of one byte."""


def sized(inline: int) -> bytes:
    """Return a record of so many inline events."""
    return Head(inline=bytes(14 * inline)).pack()


def held(share: HeadShare) -> list[bytes]:
    """Return what a share holds, the least recently used first."""
    return list(share._records)


def put(share: HeadShare, *names: bytes, record: bytes = RECORD) -> None:
    share.put_many(dict.fromkeys(names, record), {})


def check(cache: HeadCache) -> None:
    """Assert that everything is counted as what it is, and within the budget."""
    for share in cache._shares:
        assert share._decoded.keys() <= share._records.keys()
        assert share.bytes == sum(
            ENTRY_BYTES + len(name) + len(record) + (share._decoded[name].memory_bytes if known else 0)
            for name, record in share._records.items()
            for known in [name in share._decoded]
        )
    found = cache.statistics()
    assert found.bytes == sum(share.bytes for share in cache._shares) <= cache.budget_bytes
    assert found.heads == sum(len(share) for share in cache._shares)


def test_what_was_used_last_stays() -> None:
    cache = HeadCache(3 * BARE)
    share = cache.open_share()
    put(share, *NAMES[:3])
    taken = share.take_many([b"a", b"z"])
    assert (taken.records, taken.decoded) == ({b"a": RECORD}, {})
    assert held(share) == [b"b", b"c"]
    share.put_many(taken.records, taken.decoded)
    put(share, b"d")
    assert held(share) == [b"c", b"a", b"d"]
    assert cache.statistics() == (3, 3 * BARE, 1, 1)
    check(cache)


def test_what_is_taken_and_not_put_back_is_forgotten() -> None:
    cache = HeadCache(100 * BARE)
    share = cache.open_share()
    share.put_many(dict.fromkeys(NAMES, RECORD), {b"a": DecodedParts(segment_times=np.zeros(9, np.int64))})
    share.take_many([b"a", b"b"])
    assert cache.statistics()[:2] == (len(NAMES) - 2, (len(NAMES) - 2) * BARE)
    assert share.take_many([b"a"]) == ({}, {})
    check(cache)


def test_what_is_remembered_of_a_head_comes_and_goes_with_it() -> None:
    cache = HeadCache(100 * BARE)
    share = cache.open_share()
    known = DecodedParts(np.zeros(200, np.int64), EventColumns.empty(50))
    assert known.memory_bytes > 200 * 8 + 50 * 14
    share.put_many({b"a": RECORD, b"b": RECORD}, {b"a": known})
    assert cache.statistics().bytes == 2 * BARE + known.memory_bytes
    taken = share.take_many([b"b", b"a"])
    assert taken.decoded[b"a"] is known
    # What it takes changes while it is out.
    known.oldest_events = None
    share.put_many(taken.records, taken.decoded)
    assert cache.statistics().bytes == 2 * BARE + known.memory_bytes
    check(cache)
    assert share.evict(1) == BARE
    assert share.evict(1) == BARE + known.memory_bytes
    assert cache.statistics()[:2] == (0, 0)
    check(cache)


def test_it_is_worth_remembering_when_there_is_something() -> None:
    assert not DecodedParts()
    assert DecodedParts(segment_times=np.zeros(0, np.int64))
    assert DecodedParts(oldest_events=EventColumns.empty(0))


def test_a_head_larger_than_the_budget_is_let_go_at_once() -> None:
    cache = HeadCache(BARE)
    share = cache.open_share()
    share.put_many({b"a": RECORD, b"b": sized(255)}, {})
    assert held(share) == []
    assert cache.statistics().bytes == 0
    put(share, b"a")
    assert held(share) == [b"a"]
    check(cache)


def test_two_partitions_share_one_budget_and_the_larger_gives_up() -> None:
    cache = HeadCache(6 * BARE)
    large, small = cache.open_share(), cache.open_share()
    put(large, *NAMES[:5])
    put(small, b"x")
    check(cache)
    put(small, b"y")
    assert (held(large), held(small)) == ([b"b", b"c", b"d", b"e"], [b"x", b"y"])
    # The same prefix in two partitions is two heads.
    put(small, b"e", record=sized(1))
    assert large.take_many([b"e"]).records == {b"e": RECORD}
    assert small.take_many([b"e"]).records == {b"e": sized(1)}
    check(cache)


def test_what_closes_takes_its_own_along() -> None:
    cache = HeadCache(100 * BARE)
    first, other = cache.open_share(), cache.open_share()
    for share in (first, other):
        put(share, *NAMES)
    first.close()
    assert cache.statistics().heads == len(NAMES)
    check(cache)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0, 1]), st.sampled_from(["put", "take"]), st.sampled_from(NAMES), st.booleans()),
        max_size=60,
    ),
    budget=st.sampled_from([1, BARE, 3 * BARE + 20, 9 * BARE, 9_000]),
)
def test_accounts_never_drift(steps: list[tuple[int, str, bytes, bool]], budget: int) -> None:
    cache = HeadCache(budget)
    shares = [cache.open_share(), cache.open_share()]
    kept: list[dict[bytes, bytes]] = [{}, {}]
    for number, (which, what, name, more) in enumerate(steps):
        share = shares[which]
        records, decoded = share.take_many([name])
        assert records in ({}, {name: kept[which].get(name)})
        if what == "put":
            # As a writer does: the head that is here, or one from disk, and what it has read of it.
            known = decoded.get(name, DecodedParts())
            if more:
                known.segment_times = np.zeros(number, np.int64)
            kept[which][name] = sized(number % 40)
            share.put_many({name: kept[which][name]}, {name: known} if known else {})
        check(cache)


def test_partitions_may_let_go_of_heads_while_another_makes_room() -> None:
    # The others' heads may all be gone by the time that room is looked for: it must come to an end all the same.
    cache = HeadCache(BARE + 20)
    shares = [cache.open_share() for _ in range(3)]
    until = time.monotonic() + 0.5

    def work(share: HeadShare) -> None:
        rng = random.Random(id(share))
        while time.monotonic() < until:
            name = rng.choice(NAMES)
            share.take_many([name])
            put(share, name, record=sized(rng.randrange(90)))
            share.take_many([name])

    threads = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        sys.setswitchinterval(before)
    assert not any(thread.is_alive() for thread in threads)
    check(cache)


def test_making_room_ends_when_what_was_to_go_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same as above, at the worst moment: another partition takes its heads out right after the sum.
    cache = HeadCache(BARE)
    first, other = cache.open_share(), cache.open_share()
    other._records[b"a"] = sized(200)
    other.bytes = ENTRY_BYTES + 1 + len(sized(200))
    real = HeadShare.evict

    def evict(share: HeadShare, size: int) -> int:
        other.take_many([b"a"])
        return real(share, size)

    monkeypatch.setattr(HeadShare, "evict", evict)
    thread = threading.Thread(target=put, args=(first, b"b"), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    check(cache)


# In a partition


def test_two_stores_share_one_memory(tmp_path: Path) -> None:
    shape = tiny(max_explicit=100, chunk_events=8, head_cache_mib=0.02)
    memory = SharedMemory(shape)

    def opened(number: int) -> PartitionStore:
        return PartitionStore.open(tmp_path / str(number), partition=number, settings=shape, memory=memory)

    stores, models = [opened(0), opened(1)], [Model(shape), Model(shape)]
    rng = random.Random(1)
    for offset in range(120):
        number = offset % 3 % 2
        user = b"user%d" % rng.randrange(30)
        if offset % 10 == 9:
            assert stores[number].erase(user, offset=offset) == models[number].erase(user)
        elif offset % 40 == 20:
            stores[number].close()
            stores[number] = opened(number)
        else:
            # Late events and repeats make the writer remember times and chunks in its heads.
            events = [
                Event(b"user%d" % rng.randrange(30), rng.randrange(offset + 1), rng.randrange(5), 257, Kind(at % 2))
                for at in range(25)
            ]
            models[number].apply(events)
            stores[number].apply(batch_of(events), offset=offset)
        check(memory.heads)
    for store, model in zip(stores, models, strict=True):
        model.check(store)
    found = memory.heads.statistics()
    assert found.hits > 100
    assert found.misses > 100
    assert 0 < found.bytes <= memory.heads.budget_bytes
    stores[0].close()
    check(memory.heads)
    stores[1].close()
    assert memory.heads.statistics()[:2] == (0, 0)


def test_a_head_is_read_once_and_then_found_in_memory(tmp_path: Path) -> None:
    shape = tiny()
    memory = SharedMemory(shape)
    store = PartitionStore.open(tmp_path, partition=0, settings=shape, memory=memory)
    store.apply(batch_of([Event(b"ann", 1, 1, 257)]), offset=0)
    store.close()
    store = PartitionStore.open(tmp_path, partition=0, settings=shape, memory=memory)
    before = memory.heads.statistics()
    for offset in range(1, 4):
        store.apply(batch_of([Event(b"ann", offset, 1, 257)]), offset=offset)
    after = memory.heads.statistics()
    assert (after.misses, after.hits) == (1, 2)
    assert before.heads == 0
    assert held(store._heads) == [keys.sequence_prefix(b"ann", Kind.EXPLICIT)]
    store.erase(b"ann", offset=9)
    assert memory.heads.statistics().heads == 0
    store.close()


def test_a_head_that_is_let_go_within_its_batch_does_no_harm(tmp_path: Path) -> None:
    # The budget holds one head: each batch touches twenty, and the next one reads them from disk again.
    shape = tiny(max_explicit=30, head_cache_mib=(BARE + 40) / (1 << 20) * 1.2)
    memory, model = SharedMemory(shape), Model(shape)
    store = PartitionStore.open(tmp_path, partition=0, settings=shape, memory=memory)
    rng = random.Random(2)
    for offset in range(60):
        events = [Event(b"user%d" % number, rng.randrange(50), number, 257) for number in range(20)]
        model.apply(events)
        store.apply(batch_of(events), offset=offset)
        assert len(store._heads) <= 1
        check(memory.heads)
    model.check(store)
    store.close()
