import threading
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from lifeline.core.actions import ActionBatch, Kind
from lifeline.store import keys
from lifeline.store.database import ITEMS_BLOCK
from lifeline.store.errors import NotOwnerError, NotYetAppliedError, StoreError, StoreLockedError
from lifeline.store.partition import ApplyResult, PartitionStore
from lifeline.store.reader import SequenceReader
from lifeline.store.state import State
from tests.support.disk import contents
from tests.support.factories import (
    ANN,
    BOB,
    EVERYTHING,
    HOUR_MS,
    SHAPE,
    Event,
    Model,
    batch_of,
    open_store,
    outcome_of_waiting,
    perform,
    tiny,
)
from tests.support.processes import child, said

# Opening


def test_a_new_partition_is_empty(store: PartitionStore) -> None:
    assert store.state == State()
    assert (store.partition, store.applied_offset, store.fingerprint, store.watermark_ms) == (3, -1, 0, 0)
    assert store.items == 0
    assert list(store.users()) == []


def test_everything_is_there_again_after_closing(tmp_path: Path, store: PartitionStore) -> None:
    model = Model(SHAPE)
    model.apply(ANN + BOB)
    store.apply(batch_of(ANN + BOB), offset=41)
    before = store.state
    store.close()
    store.close()
    again = open_store(tmp_path / "p", SHAPE)
    assert again.state == before
    assert again.items == 4
    model.check(again)
    again.close()


def test_an_empty_batch_moves_the_offset_alone(tmp_path: Path, store: PartitionStore) -> None:
    store.apply(batch_of(ANN), offset=5)
    before = store.state
    assert store.apply(ActionBatch.empty(), offset=9) == ApplyResult()
    assert store.state == before._replace(applied_offset=9)
    store.close()
    again = open_store(tmp_path / "p", SHAPE)
    assert again.state == before._replace(applied_offset=9)
    again.close()


OPENER = """
import sys
from pathlib import Path
from lifeline.store.errors import StoreError
from tests.support.factories import SHAPE, open_store
try:
    open_store(Path(sys.argv[1]), SHAPE).close()
    print("opened", flush=True)
except StoreError as error:
    print("refused", type(error).__name__, error, flush=True)
"""


def test_another_process_is_kept_out(tmp_path: Path, store: PartitionStore) -> None:
    with child(OPENER, tmp_path / "p") as process:
        text = said(process, "refused StoreLockedError")
    assert "stop that node, or give this one its own node.data_dir" in text
    with pytest.raises(StoreLockedError):
        open_store(tmp_path / "p", SHAPE)
    store.close()
    with child(OPENER, tmp_path / "p") as process:
        said(process, "opened")


@pytest.mark.parametrize("name", ["p", "clock", "blocks"])
def test_a_database_that_does_not_open_is_not_called_locked(tmp_path: Path, name: str) -> None:
    open_store(tmp_path / name, SHAPE).close()
    (tmp_path / name / "CURRENT").write_text("MANIFEST-999999\n")
    with pytest.raises(StoreError, match="check the disk, or set the directory aside") as caught:
        open_store(tmp_path / name, SHAPE)
    assert not isinstance(caught.value, StoreLockedError)


# Items


@pytest.mark.parametrize("step", [1, 700, ITEMS_BLOCK, ITEMS_BLOCK + 1, 3 * ITEMS_BLOCK])
def test_items_are_numbered_once_and_folded_into_blocks(tmp_path: Path, step: int) -> None:
    total = 3 * ITEMS_BLOCK + 10
    store = open_store(tmp_path, SHAPE)
    if step == 1:
        store.apply(batch_of([Event(b"x", 0, item, 1) for item in range(ITEMS_BLOCK - 3)]), offset=0)
    first = store.items
    until = first + 6 if step == 1 else total
    for at in range(first, until, step):
        store.apply(batch_of([Event(b"x", 0, item, 1) for item in range(at, min(at + step, until))]), offset=at + 1)
        if at % 3 == 0:
            store.close()
            store = open_store(tmp_path, SHAPE)
    assert store.items == until
    store.close()
    found = contents(tmp_path, "meta")
    records = {
        keys.items_first(k): np.frombuffer(v, np.uint64) for k, v in found.items() if k.startswith(keys.ITEMS_PREFIX)
    }
    assert np.concatenate([records[first] for first in sorted(records)]).tolist() == list(range(until))
    folded = until // ITEMS_BLOCK
    assert all(len(records[number * ITEMS_BLOCK]) == ITEMS_BLOCK for number in range(folded))
    assert len(records) <= folded + 2 + (until - folded * ITEMS_BLOCK) // step


# Waiting, erasing, compacting


def test_waiting_ends_when_the_offset_is_applied(store: PartitionStore) -> None:
    arrived = threading.Event()

    def wait() -> None:
        store.wait_for(4, 20.0)
        arrived.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    store.apply(batch_of(ANN), offset=3)
    assert not arrived.is_set()
    store.apply(ActionBatch.empty(), offset=7)
    assert arrived.wait(10)
    waiting.join(10)
    store.wait_for(7, 0.0)


def test_waiting_gives_up_in_time(store: PartitionStore) -> None:
    store.apply(batch_of(ANN), offset=3)
    began = time.monotonic()
    with pytest.raises(NotYetAppliedError, match="applied offset 3, and the call needs 4") as caught:
        store.wait_for(4, 0.05)
    assert 0.04 < time.monotonic() - began < 5
    assert (caught.value.partition, caught.value.requested, caught.value.applied) == (3, 4, 3)
    with pytest.raises(NotYetAppliedError):
        store.wait_for(4, -1.0)


def test_closing_wakes_those_who_wait(store: PartitionStore) -> None:
    outcome: list[str] = []
    waiting = threading.Thread(target=lambda: outcome.append(outcome_of_waiting(store)))
    waiting.start()
    store.close()
    waiting.join(10)
    assert outcome == ["NotOwnerError"]


def test_closing_waits_for_a_view(tmp_path: Path, store: PartitionStore) -> None:
    store.apply(batch_of(ANN), offset=0)
    closing = threading.Thread(target=store.close)
    with store.view() as view:
        closing.start()
        view.chunks.seek_to_first()
        assert view.chunks.valid()
        assert closing.is_alive()
        del view
    closing.join(10)
    assert not closing.is_alive()
    open_store(tmp_path / "p", SHAPE).close()


def test_erasing_takes_both_kinds_of_one_user_alone(tmp_path: Path, store: PartitionStore) -> None:
    model = Model(SHAPE)
    model.apply(ANN + BOB)
    store.apply(batch_of(ANN + BOB), offset=0)
    assert store.erase(b"bob", offset=1) == model.erase(b"bob") == 12
    assert store.erase(b"bob", offset=2) == store.erase(b"nobody", offset=3) == 0
    model.check(store)
    assert SequenceReader(store).read("bob", EVERYTHING).sequences[Kind.EXPLICIT].stored == 0
    assert list(store.users()) == ["ann"]
    # The user may come back, and then starts anew.
    model.apply(BOB[:3])
    store.apply(batch_of(BOB[:3]), offset=4)
    model.check(store)
    assert store.applied_offset == 4
    store.close()
    assert not [key for key in contents(tmp_path / "p", "chunks") if key.startswith(b"bob")]
    assert [key for key in contents(tmp_path / "p", "rows") if key.startswith(b"bob")] == [
        keys.sequence_prefix(b"bob", kind) for kind in Kind
    ]


def test_users_come_once_each_in_the_order_of_their_keys(store: PartitionStore) -> None:
    names = [f"user {number}" for number in range(50)] + ["Ünal", "user", "user\x00", "z"]
    store.apply(
        batch_of([Event(name.encode(), at, 1, 257, Kind(at % 2)) for name in names for at in range(9)]), offset=0
    )
    store.erase(b"user 7", offset=1)
    names.remove("user 7")
    assert list(store.users()) == sorted(names, key=lambda name: keys.user_prefix(name.encode()))


def test_compacting_changes_nothing(tmp_path: Path, store: PartitionStore) -> None:
    model = Model(SHAPE)
    for offset in range(30):
        perform(store, offset)
        perform(model, offset)
    before = store.state
    store.compact()
    assert store.state == before
    model.check(store)
    store.close()
    again = open_store(tmp_path / "p", SHAPE)
    model.check(again)
    again.close()


def test_a_closed_store_says_so(store: PartitionStore) -> None:
    store.apply(batch_of(ANN), offset=0)
    reader = SequenceReader(store)
    store.close()
    for late in (
        lambda: store.apply(ActionBatch.empty(), offset=1),
        lambda: store.erase(b"ann", offset=1),
        lambda: reader.read("ann", EVERYTHING),
        lambda: store.wait_for(1, 5.0),
        lambda: list(store.users()),
    ):
        with pytest.raises(NotOwnerError, match="ask the node that does"):
            late()


# Age

DAY = tiny(max_explicit=40, max_explicit_age_days=1, max_impression_age_days=2)
T = 1_000 * HOUR_MS


def moments(store: PartitionStore, user: str, kind: Kind = Kind.EXPLICIT) -> list[int]:
    found = SequenceReader(store).read(user, EVERYTHING).sequences[kind].timestamp_ms
    assert found is not None
    return [int(at) - T for at in found]


def at(user: bytes, *hours: float, kind: Kind = Kind.EXPLICIT, item: int = 1) -> ActionBatch:
    return batch_of([Event(user, T + int(hour * HOUR_MS), item, 257, kind) for hour in hours])


def test_the_age_is_counted_from_the_hour_of_the_newest_event(tmp_path: Path) -> None:
    store = open_store(tmp_path, DAY)
    store.apply(batch_of([Event(b"ann", T + ms, 1, 257) for ms in (-1, 0, 1, HOUR_MS - 1, HOUR_MS)]), offset=0)
    store.apply(at(b"bob", 24.99), offset=1)
    assert moments(store, "ann") == [0, 1, HOUR_MS - 1, HOUR_MS]
    result = store.apply(at(b"bob", 25), offset=2)
    assert (result.inserted, result.expired, result.trimmed) == (1, 3, 0)
    assert moments(store, "ann") == [HOUR_MS]
    assert store.watermark_ms == T + 25 * HOUR_MS
    store.close()


def test_each_kind_has_its_age_and_one_watermark(tmp_path: Path) -> None:
    store = open_store(tmp_path, DAY)
    store.apply(at(b"ann", 0, 10, kind=Kind.EXPLICIT), offset=0)
    store.apply(at(b"ann", 0, 10, kind=Kind.IMPRESSION), offset=1)
    # An impression of somebody else is enough.
    store.apply(at(b"bob", 34, kind=Kind.IMPRESSION), offset=2)
    assert moments(store, "ann") == [10 * HOUR_MS]
    assert moments(store, "ann", Kind.IMPRESSION) == [0, 10 * HOUR_MS]
    store.apply(at(b"bob", 58, kind=Kind.EXPLICIT), offset=3)
    assert moments(store, "ann") == []
    assert moments(store, "ann", Kind.IMPRESSION) == [10 * HOUR_MS]
    store.close()


def test_what_comes_too_late_leaves_no_trace(tmp_path: Path) -> None:
    store = open_store(tmp_path / "p", DAY)
    store.apply(at(b"ann", 48), offset=0)
    before = store.state
    assert store.apply(at(b"cy", 23, 22.5, item=99), offset=1) == ApplyResult(repeated=2)
    assert store.state == before._replace(applied_offset=1)
    assert store.items == 1
    assert list(store.users()) == ["ann"]
    assert store.apply(at(b"cy", 24, 23.99), offset=2) == ApplyResult(inserted=1, repeated=1)
    # In one batch: what is too old by the batch's own newest event does not come in at all.
    assert store.apply(at(b"dee", 0, 100), offset=3).inserted == 1
    store.close()


def test_a_sequence_that_is_too_old_as_a_whole_leaves_nothing_behind(tmp_path: Path) -> None:
    store, model = open_store(tmp_path / "p", DAY), Model(DAY)
    everything = [Event(user, T + number, number, 257) for user in (b"ann", b"bob") for number in range(35)]
    for offset, events in enumerate([everything, [Event(b"cy", T + 26 * HOUR_MS, 5, 257)]]):
        model.apply(events)
        store.apply(batch_of(events), offset=offset)
    model.check(store)
    assert store.state.events == 1
    # It may come back, and then starts anew.
    store.apply(at(b"ann", 26), offset=2)
    assert moments(store, "ann") == [26 * HOUR_MS]
    store.close()
    assert [key[:3] for key in contents(tmp_path / "p", "rows")] == [b"ann", b"cy\xff"]
    assert contents(tmp_path / "p", "chunks") == {}
    expiry = [key for key in contents(tmp_path / "p", "meta") if key.startswith(keys.EXPIRY_PREFIX)]
    assert expiry == [keys.expiry_key(keys.sequence_prefix(user, Kind.EXPLICIT), 1_026) for user in (b"ann", b"cy")]


def test_the_bytes_of_what_is_too_old_are_gone(tmp_path: Path) -> None:
    store = open_store(tmp_path / "p", DAY)
    old = [Event(b"ann", T + 7_777_777 + number, 0xDEC0DE00 + number, 257) for number in range(30)]
    store.apply(batch_of(old), offset=0)
    store.apply(at(b"ann", *range(10, 20)), offset=1)
    stored = cast("list[tuple[bytes, bytes]]", list(store.database.chunks.items()))
    chunks = [record for key, record in stored if keys.chunk_fence(key).timestamp_ms < T + 8_000_000]
    assert len(chunks) > 3

    def found() -> bool:
        contents_of_files = [file.read_bytes() for file in (tmp_path / "p").iterdir()]
        return any(chunk[32:] in content for chunk in chunks for content in contents_of_files)

    assert found()
    store.apply(at(b"ann", 33), offset=2)
    assert moments(store, "ann")[0] == 10 * HOUR_MS
    store.compact()
    assert not found()
    store.close()


@pytest.mark.parametrize("newest", [-1, 0, 24 * HOUR_MS, 25 * HOUR_MS - 1])
def test_until_the_age_has_passed_since_1970_nothing_is_too_old(tmp_path: Path, newest: int) -> None:
    store = open_store(tmp_path, DAY)
    store.apply(batch_of([Event(b"ann", moment, 1, 257) for moment in (-(1 << 63), -5, 0)]), offset=0)
    store.apply(batch_of([Event(b"bob", newest, 1, 257)]), offset=1)
    assert store.state.events == 4
    store.apply(batch_of([Event(b"bob", 25 * HOUR_MS, 1, 257)]), offset=2)
    assert moments(store, "ann") == []
    store.close()
