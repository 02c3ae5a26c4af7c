"""What an erased user leaves in the files: nothing, whatever the compression."""

from pathlib import Path

import pytest
from rocksdict import DBCompressionType, Options

from lifeline.core.actions import Kind
from lifeline.store import keys, rocksdb
from lifeline.store.chunk import encode
from lifeline.store.memory import SharedMemory
from lifeline.store.rocksdb import family_options
from lifeline.store.segment import pack_events
from tests.support.erasure import LONG, SHAPE, SHORT, SINCE, chunk_bodies, events_of, files, fill, traces, traces_in
from tests.support.factories import Event, Model, batch_of, columns_of, open_store, tiny
from tests.support.layout import check_layout


@pytest.fixture(params=["compressed", "raw"])
def compression(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compress rows as in production, or not at all, so that the tables hold their bytes as they are."""

    def raw(name: str, memory: SharedMemory) -> Options:
        options = family_options(name, memory)
        options.set_compression_type(DBCompressionType.none())
        options.set_bottommost_compression_type(DBCompressionType.none())
        return options

    if request.param == "raw":
        monkeypatch.setattr(rocksdb, "family_options", raw)
    return str(request.param)


@pytest.mark.parametrize("before", ["log", "flushed", "compacted", "everywhere"])
def test_no_byte_is_left(tmp_path: Path, compression: str, before: str) -> None:
    store, model = open_store(tmp_path / "p", SHAPE), Model(SHAPE)
    for target in (store, model):
        fill(target, 0, 4, SHORT, LONG)
    if before == "flushed":
        for family in store.database.families.values():
            family.flush()
    elif before != "log":
        store.compact()
    if before == "everywhere":
        for target in (store, model):
            fill(target, 4, 2, LONG)
        for family in store.database.families.values():
            family.flush()
        for target in (store, model):
            fill(target, 6, 2, LONG, SHORT)
    chunks = {user: chunk_bodies(store, user) for user in (LONG, SHORT)}
    assert all(len(bodies) > 4 for bodies in chunks.values())
    present = traces_in(tmp_path, LONG, chunks=chunks[LONG])
    if compression == "raw" or before != "compacted":
        assert {"times", "items", "fences", "chunks", "id"} - present.keys() <= {"fences"}
    for number, user in enumerate([LONG, SHORT, LONG]):
        assert store.erase(user, offset=20 + number) == model.erase(user)
    assert store.wait_scrubbed(60)
    assert not store.scrubbing
    for user, bodies in chunks.items():
        assert traces_in(tmp_path, user, chunks=bodies) == {}
    # Later writes and compactions bring nothing back.
    for target in (store, model):
        fill(target, 30, 3)
    store.compact()
    model.check(store)
    check_layout(store, SHAPE)
    assert store.fingerprint == fingerprint_of_others(tmp_path / "other", before == "everywhere")
    store.close()
    for user, bodies in chunks.items():
        assert traces_in(tmp_path / "p", user, chunks=bodies) == {}


def fingerprint_of_others(path: Path, everywhere: bool) -> int:
    """Return the fingerprint of a store that never had the erased users."""
    store = open_store(path, SHAPE)
    for first, n in [(0, 4), *([(4, 2), (6, 2)] if everywhere else []), (30, 3)]:
        fill(store, first, n)
    fingerprint = store.fingerprint
    store.close()
    return fingerprint


def test_the_traces_are_those_that_a_store_leaves() -> None:
    # The search is for bytes that records do consist of.
    rows = [(event.timestamp_ms, number, event.code) for number, event in enumerate(events_of(LONG)[::2])]
    packed = pack_events(columns_of(rows))
    assert all(needle in packed for needle in traces(LONG)["times"][::4])
    key = keys.chunk_key(keys.sequence_prefix(LONG, 0), events_of(LONG)[0].identity)
    assert {trace for trace, needles in traces(LONG).items() if any(needle in key for needle in needles)} == {
        "items",
        "fences",
        "id",
    }
    assert len(encode(columns_of(rows))) > 100


def test_an_unknown_user_is_erased_too(tmp_path: Path) -> None:
    # The erasure itself has written the user's id.
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 1)
    assert store.erase(LONG, offset=5) == 0
    assert store.wait_scrubbed(60)
    assert traces_in(tmp_path, LONG) == {}
    store.close()


def test_an_erased_user_may_come_back(tmp_path: Path) -> None:
    store, model = open_store(tmp_path, SHAPE), Model(SHAPE)
    for round_ in range(3):
        for target in (store, model):
            fill(target, 10 * round_, 2, LONG)
        assert store.erase(LONG, offset=10 * round_ + 5) == model.erase(LONG) > 0
    for target in (store, model):
        fill(target, 40, 2, LONG)
    assert store.wait_scrubbed(60)
    model.check(store)
    check_layout(store, SHAPE)
    store.close()


def test_many_erasures_in_a_row(tmp_path: Path) -> None:
    shape, model = tiny(max_explicit=60, chunk_events=8), Model(tiny(max_explicit=60, chunk_events=8))
    store = open_store(tmp_path, shape)
    users = [b"somebody-%03d-somewhere" % number for number in range(40)]
    for offset, user in enumerate(users):
        events = [Event(user, SINCE + at, at, 257, kind) for at in range(30) for kind in Kind]
        model.apply(events)
        store.apply(batch_of(events), offset=offset)
    for offset, user in enumerate(users[::2], 100):
        assert store.erase(user, offset=offset) == model.erase(user) == 37
    assert store.wait_scrubbed(60)
    content = b"".join(files(tmp_path).values())
    assert [user for user in users if user in content or user.hex().upper().encode() in content] == [
        user for user in users[1::2] if user in content
    ]
    model.check(store)
    store.close()
