"""What an erased user leaves in the files: nothing, whatever the crash, the view, or the compression."""

import os
import random
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from rocksdict import DBCompressionType, Options, Rdict

from lifeline.core.actions import Kind
from lifeline.store import erasure, keys, rocksdb
from lifeline.store.chunk import encode
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.rocksdb import compact_range, family_options
from lifeline.store.segment import pack_events
from lifeline.store.settings import StoreSettings
from tests.support.factories import BOB, HOUR_MS, Event, Model, batch_of, columns_of, open_store, tiny
from tests.support.layout import check_layout
from tests.support.processes import child, said

SHAPE = tiny(max_explicit=60, max_explicit_age_days=9, chunk_events=8, inline_events=4)
# Between others in the order of keys: a table that holds them holds others too.
LONG = "margarethe-von-w\u00fcrzburg@example.org/4711".encode()
SHORT = b"e"
SINCE = 500_000 * HOUR_MS
OTHERS = [b"ann", b"d", b"e\x00", b"ea", b"margarethe", LONG[:-2], LONG[:-2] + b"2", b"zoe"]


def own(user: bytes) -> list[Event]:
    """Return events whose times and items nobody else has; the others have newer ones."""
    rng = random.Random(user)
    number = len(user) << 12
    return [
        Event(user, SINCE + 1_234_567 + at * 7_919 + number, 0xDECADE_0000 + number + at, rng.choice([257, 258]), kind)
        for at in range(70)
        for kind in (Kind.EXPLICIT, Kind.IMPRESSION)
    ]


def others(offset: int) -> list[Event]:
    rng = random.Random(offset)
    return [
        Event(rng.choice(OTHERS), SINCE + HOUR_MS + offset * 60_000 + at, rng.randrange(500), 257, rng.choice([*Kind]))
        for at in range(40)
    ]


def traces(user: bytes) -> dict[str, list[bytes]]:
    """Return what must not be found: the id, where it is long enough to be found by chance nowhere, and the events.

    The item table keeps the ids of items, which are nobody's, as little-endian numbers. They are looked for as the
    keys of chunks hold them, and with their time as an event.
    """
    events = own(user)
    found: dict[str, list[bytes]] = {"times": [], "items": [], "fences": [], "chunks": []}
    for event in events:
        found["times"] += [struct.pack("<q", event.timestamp_ms), struct.pack(">q", event.timestamp_ms)]
        found["items"].append(struct.pack(">Q", event.item_id))
        fence = struct.pack(">Q", event.timestamp_ms + (1 << 63))
        found["fences"] += [fence, fence.hex().encode(), fence.hex().upper().encode()]
    if len(user) > 8:
        # Without its last byte too: the end of the user's range is the id with that byte one higher.
        found["id"] = [
            form for name in (user, user[:-1]) for form in (name, name.hex().encode(), name.hex().upper().encode())
        ]
    return found


def files(path: Path) -> dict[str, bytes]:
    """Return the content of every file under a directory."""
    contents: dict[str, bytes] = {}
    for file in path.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            contents[file.name] = file.read_bytes()
    return contents


def found_in(path: Path, user: bytes, *, chunks: list[bytes] | None = None) -> dict[str, set[str]]:
    """Return which traces of a user are in which files."""
    looked_for = traces(user) | {"chunks": chunks or []}
    contents = files(path)
    where = {
        trace: {name for name, content in contents.items() if any(needle in content for needle in needles)}
        for trace, needles in looked_for.items()
    }
    return {trace: names for trace, names in where.items() if names}


def bodies(store: PartitionStore, user: bytes) -> list[bytes]:
    """Return the encoded columns of a user's chunks."""
    items = cast("list[tuple[bytes, bytes]]", list(store.database.chunks.items()))
    return [data[32:] for key, data in items if key.startswith(keys.user_prefix(user))]


def fill(store: PartitionStore | Model, first: int, n: int, *users: bytes) -> None:
    """Apply n batches from an offset on, with a part of each user's events in every one; go on where they ended."""
    begin = 0 if isinstance(store, Model) else max(0, store.applied_offset + 1 - first)
    for number in range(begin, n):
        events = others(first + number)
        for user in users:
            mine = own(user)
            events += mine[len(mine) * number // n : len(mine) * (number + 1) // n]
        if isinstance(store, Model):
            store.apply(events)
        else:
            store.apply(batch_of(events), offset=first + number)


@pytest.fixture(params=["compressed", "raw"])
def compression(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With RocksDB's compression of rows, and without: then their bytes stand in the tables as they are."""

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
    chunks = {user: bodies(store, user) for user in (LONG, SHORT)}
    assert all(len(found) > 4 for found in chunks.values())
    seen = found_in(tmp_path, LONG, chunks=chunks[LONG])
    if compression == "raw" or before != "compacted":
        assert {"times", "items", "fences", "chunks", "id"} - seen.keys() <= {"fences"}
    for number, user in enumerate([LONG, SHORT, LONG]):
        assert store.erase(user, offset=20 + number) == model.erase(user)
    assert store.wait_scrubbed(60)
    assert not store.scrubbing
    for user, found in chunks.items():
        assert found_in(tmp_path, user, chunks=found) == {}
    # What goes on does not bring anything back.
    for target in (store, model):
        fill(target, 30, 3)
    store.compact()
    model.check(store)
    check_layout(store, SHAPE)
    assert store.fingerprint == never_saw_them(tmp_path / "other", before == "everywhere")
    store.close()
    for user, found in chunks.items():
        assert found_in(tmp_path / "p", user, chunks=found) == {}


def never_saw_them(path: Path, everywhere: bool) -> int:
    """Return the fingerprint of a store that was told of nobody but the others."""
    store = open_store(path, SHAPE)
    for first, n in [(0, 4), *([(4, 2), (6, 2)] if everywhere else []), (30, 3)]:
        fill(store, first, n)
    found = store.fingerprint
    store.close()
    return found


def test_the_traces_are_those_that_a_store_leaves() -> None:
    # What is looked for is what the records are made of.
    rows = [(event.timestamp_ms, number, event.code) for number, event in enumerate(own(LONG)[::2])]
    packed = pack_events(columns_of(rows))
    assert all(needle in packed for needle in traces(LONG)["times"][::4])
    key = keys.chunk_key(keys.sequence_prefix(LONG, 0), own(LONG)[0].identity)
    assert {trace for trace, needles in traces(LONG).items() if any(needle in key for needle in needles)} == {
        "items",
        "fences",
        "id",
    }
    assert len(encode(columns_of(rows))) > 100


def test_a_user_that_nobody_knows_is_erased_all_the_same(tmp_path: Path) -> None:
    # Its id has been written: in the erasure itself.
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 1)
    assert store.erase(LONG, offset=5) == 0
    assert store.wait_scrubbed(60)
    assert found_in(tmp_path, LONG) == {}
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


# Views


def test_an_open_view_is_waited_for(tmp_path: Path) -> None:
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 2, LONG)
    store.compact()
    fill(store, 2, 2, LONG)
    with store.view() as view:
        store.erase(LONG, offset=9)
        assert not store.wait_scrubbed(0.3)
        assert store.scrubbing
        # It still shows the moment in which it was opened.
        view.rows.seek(keys.user_prefix(LONG))
        assert view.rows.key().startswith(LONG)
        del view
    assert store.wait_scrubbed(60)
    assert found_in(tmp_path, LONG) == {}
    store.close()


def test_a_view_that_is_opened_while_the_scrub_is_under_way_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It holds the tables of before the compaction, whenever it was opened.
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 2, LONG)
    store.compact()
    compacting, opened = threading.Event(), threading.Event()
    real = compact_range

    def waiting(family: Rdict, start: bytes | None = None, end: bytes | None = None) -> None:
        compacting.set()
        opened.wait(20)
        real(family, start, end)

    monkeypatch.setattr(erasure, "compact_range", waiting)
    store.erase(LONG, offset=9)
    assert compacting.wait(20)
    with store.view() as view:
        opened.set()
        assert not store.wait_scrubbed(0.3)
        view.rows.seek_to_first()
        del view
    assert store.wait_scrubbed(60)
    assert found_in(tmp_path, LONG) == {}
    store.close()


def test_views_that_are_opened_later_are_not_waited_for(tmp_path: Path) -> None:
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 2, LONG)
    done = threading.Event()

    def read() -> None:
        # There is no moment without an open view.
        while not done.is_set():
            with store.view() as first:
                del first
                with store.view() as second:
                    second.rows.seek_to_first()
                    del second

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    store.erase(LONG, offset=9)
    scrubbed = store.wait_scrubbed(60)
    done.set()
    for thread in readers:
        thread.join(20)
    assert scrubbed
    assert found_in(tmp_path, LONG) == {}
    store.close()


def test_the_writer_goes_on_meanwhile(tmp_path: Path) -> None:
    store, model = open_store(tmp_path, SHAPE), Model(SHAPE)
    offset = 0
    for user in (LONG, SHORT):
        for target in (store, model):
            fill(target, offset, 4, user)
        offset += 4
        store.erase(user, offset=offset)
        model.erase(user)
        offset += 1
        deadline = time.monotonic() + 60
        while store.scrubbing:
            assert time.monotonic() < deadline
            fill(store, offset, 1)
            fill(model, offset, 1)
            offset += 1
        # Looked at while there is a log with what has been applied since.
        assert found_in(tmp_path, user) == {}
    model.check(store)
    check_layout(store, SHAPE)
    store.close()


# Crashes, closes, failures


class Steps:
    """Calls `at` before step number `stop` of a scrub: each of its writes, flushes, compactions and waits is one."""

    def __init__(self, stop: int, at: Callable[[], None]) -> None:
        self.stop, self.at, self.taken = stop, at, 0

    def step(self) -> None:
        if threading.current_thread().name.startswith("scrub-"):
            if self.taken == self.stop:
                self.at()
            self.taken += 1

    def before(self, real: Callable[..., object]) -> Callable[..., object]:
        def stepping(*arguments: object) -> object:
            self.step()
            return real(*arguments)

        return stepping

    @staticmethod
    def names() -> Iterator[tuple[object, str]]:
        yield erasure, "compact_range"
        yield erasure, "_overwrite_logs"
        for name in ("_flush", "_wait_until_gone", "_pending"):
            yield erasure.Scrubber, name

    def meta(self, store: PartitionStore) -> None:
        store._scrubber._meta = cast("Rdict", Stepping(store._scrubber._meta, self))


class Stepping:
    """A family of which each write is a step."""

    def __init__(self, real: Rdict, steps: Steps) -> None:
        self._real, self._steps = real, steps

    def put(self, key: bytes, value: bytes) -> None:
        self._steps.step()
        self._real.put(key, value)

    def delete(self, key: bytes) -> None:
        self._steps.step()
        self._real.delete(key)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


# One interpreter that forks a process for each step: the step is where that one dies.
KILLED = """
import os, sys, threading
from pathlib import Path
from tests.store.test_erasure import die_at
for stop in range(int(sys.argv[2]), 1_000):
    process = os.fork()
    if not process:
        die_at(Path(sys.argv[1]) / str(stop), stop)
        os._exit(0)
    if os.waitpid(process, 0)[1] == 0:
        print("steps", stop, flush=True)
        break
sys.stdin.read()
"""


def die_at(path: Path, stop: int) -> None:
    """Build a store, erase two users, and die by SIGKILL at a step of the scrub; return if there is no such step."""
    steps = Steps(stop, lambda: os.kill(os.getpid(), signal.SIGKILL))
    for owner, name in steps.names():
        setattr(owner, name, steps.before(getattr(owner, name)))
    store = open_store(path, SHAPE)
    steps.meta(store)
    fill(store, 0, 4, LONG, SHORT)
    for family in store.database.families.values():
        family.flush()
    store.erase(SHORT, offset=5)
    fill(store, 6, 2, LONG)
    store.erase(LONG, offset=9)
    store.wait_scrubbed(60)


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_a_scrub_that_is_finished_later(tmp_path: Path) -> None:
    model = Model(SHAPE)
    fill(model, 0, 4)
    fill(model, 6, 2)
    with child(KILLED, tmp_path, 0) as process:
        steps = int(said(process, "steps"))
    assert steps > 15
    for stop in range(steps + 1):
        path = tmp_path / str(stop)
        store = open_store(path, SHAPE)
        # The kill may have come before the second erasure was written: then the log goes on where it was.
        fill(store, 6, 2, LONG)
        if store.applied_offset < 9:
            store.erase(LONG, offset=9)
        assert store.wait_scrubbed(60), stop
        for user in (LONG, SHORT):
            assert found_in(path, user) == {}, stop
        model.check(store)
        check_layout(store, SHAPE)
        store.close()
        # Nothing is left to be done.
        again = open_store(path, SHAPE)
        assert not again.scrubbing
        again.close()


def test_closing_at_any_step_leaves_a_scrub_that_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, there_is_more = 0, True
    while there_is_more:
        path = tmp_path / str(stop)
        store = open_store(path, SHAPE)
        reached, scrubber = threading.Event(), store._scrubber

        def wait_for_close() -> None:
            reached.set()  # noqa: B023 - the thread ends within the round
            deadline = time.monotonic() + 20
            while not scrubber._closing and time.monotonic() < deadline:  # noqa: B023
                time.sleep(0.001)

        steps = Steps(stop, wait_for_close)
        with monkeypatch.context() as patching:
            for owner, name in steps.names():
                patching.setattr(owner, name, steps.before(getattr(owner, name)))
            steps.meta(store)
            fill(store, 0, 2, LONG)
            store.erase(LONG, offset=5)
            deadline = time.monotonic() + 60
            while not reached.is_set() and store.scrubbing:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            there_is_more = reached.is_set()
            began = time.monotonic()
            store.close()
            assert time.monotonic() - began < 10
        again = open_store(path, SHAPE)
        assert again.wait_scrubbed(60)
        assert found_in(path, LONG) == {}, stop
        again.close()
        stop += 1
    assert stop > 10


def test_a_user_that_is_erased_again_at_any_step_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, there_is_more = 0, True
    while there_is_more:
        path = tmp_path / str(stop)
        store = open_store(path, SHAPE)
        again: list[int] = []

        def once_more() -> None:
            fill(store, 10, 2, LONG)  # noqa: B023 - the thread ends within the round
            store.compact()  # noqa: B023
            again.append(store.erase(LONG, offset=19))  # noqa: B023

        steps = Steps(stop, once_more)
        with monkeypatch.context() as patching:
            for owner, name in steps.names():
                patching.setattr(owner, name, steps.before(getattr(owner, name)))
            steps.meta(store)
            fill(store, 0, 2, LONG)
            store.erase(LONG, offset=5)
            # The first scrub, and then all that has been asked for by then.
            assert store.wait_scrubbed(60)
            assert store.wait_scrubbed(60)
        there_is_more = bool(again)
        assert found_in(path, LONG) == {}, stop
        store.close()
        stop += 1
    assert stop > 10


RANDOMLY = """
import sys
from pathlib import Path
from tests.store.test_erasure import LONG, SHAPE, SHORT, fill, open_store
store = open_store(Path(sys.argv[1]), SHAPE)
print("ready", store.applied_offset, flush=True)
at = store.applied_offset + 1
while True:
    if at % 5 == 4:
        store.erase((LONG, SHORT)[at % 2], offset=at)
    else:
        fill(store, at, 1, LONG, SHORT)
    at += 1
"""


@pytest.mark.slow
def test_kills_at_random_leave_what_the_next_one_finishes(tmp_path: Path) -> None:
    rng = random.Random(3)
    for _ in range(5):
        with child(RANDOMLY, tmp_path) as process:
            said(process, "ready")
            time.sleep(rng.uniform(0.0, 0.2))
    store = open_store(tmp_path, SHAPE)
    last, model = store.applied_offset, Model(SHAPE)
    assert last > 20
    for at in range(last + 1):
        if at % 5 == 4:
            model.erase((LONG, SHORT)[at % 2])
        else:
            fill(model, at, 1, LONG, SHORT)
    model.check(store)
    for offset, user in enumerate([LONG, SHORT], last + 1):
        assert store.erase(user, offset=offset) == model.erase(user)
    assert store.wait_scrubbed(60)
    for user in (LONG, SHORT):
        assert found_in(tmp_path, user) == {}
    model.check(store)
    store.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
import structlog
from lifeline.store import erasure
from tests.support.factories import HOUR_MS, Event, batch_of, open_store
from tests.store.test_erasure import LONG, SHAPE, SINCE, own
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
erasure._RETRY_S = 0.05
store = open_store(Path(sys.argv[1]), SHAPE)
mine = own(LONG)
for part in range(3):
    events = mine[len(mine) * part // 3 : len(mine) * (part + 1) // 3]
    for user in range(400):
        events += [Event(b"user%04d" % user, SINCE + HOUR_MS + part * 99 + at, user * 777 + at, 1) for at in range(20)]
    store.apply(batch_of(events), offset=part)
    for family in store.database.families.values():
        family.flush()
# What there is can be rewritten no more: the tables together are larger than any file may be.
largest = max(file.stat().st_size for file in Path(sys.argv[1]).glob("*.sst"))
resource.setrlimit(resource.RLIMIT_FSIZE, (largest * 3 // 2,) * 2)
store.erase(LONG, offset=9)
print("scrubbed", store.wait_scrubbed(1), flush=True)
sys.stdin.read()
"""


def test_a_compaction_that_fails_is_no_scrub(tmp_path: Path) -> None:
    with child(FULL_DISK, tmp_path) as process:
        assert said(process, "scrubbed") == "False"
    assert found_in(tmp_path, LONG)
    store = open_store(tmp_path, SHAPE)
    assert store.wait_scrubbed(60)
    assert found_in(tmp_path, LONG) == {}
    assert store.state.events == 400 * 60
    store.close()


def test_a_scrub_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "_RETRY_S", 0.01)
    real, fails = erasure._overwrite_logs, [3]

    def overwrite(path: Path, users: list[bytes]) -> None:
        fails[0] -= 1
        if fails[0] >= 0:
            raise OSError("Input/output error")
        real(path, users)

    monkeypatch.setattr(erasure, "_overwrite_logs", overwrite)
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 2, LONG)
    store.erase(LONG, offset=5)
    assert store.wait_scrubbed(60)
    assert fails == [-1]
    assert found_in(tmp_path, LONG) == {}
    # Reading and writing have not been bothered.
    fill(store, 6, 1)
    store.close()


def test_closing_does_not_wait_for_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = threading.Event()

    def overwrite(path: Path, users: list[bytes]) -> None:
        del path, users
        failing.set()
        raise OSError("Input/output error")

    with monkeypatch.context() as patching:
        patching.setattr(erasure, "_overwrite_logs", overwrite)
        store = open_store(tmp_path, SHAPE)
        fill(store, 0, 2, LONG)
        store.erase(LONG, offset=5)
        assert failing.wait(20)
        assert not store.wait_scrubbed(0.05)
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < 10
    again = open_store(tmp_path, SHAPE)
    assert again.wait_scrubbed(60)
    assert found_in(tmp_path, LONG) == {}
    again.close()


def test_what_shows_a_user_is_only_overwritten_where_it_stands_alone(tmp_path: Path) -> None:
    # RocksDB's own log stays readable: numbers that happen to look like a short user's bytes are left alone.
    log = tmp_path / "LOG"
    line = b"2026/01/01-65FF00 %s 7A65FF 6600 from '%s' seq:1 .. '%s' seq:0; will stop at '%s'\n"
    log.write_bytes(line % (b"65FF", b"65FF", b"6600", b"65FF0080AB") + line % (b"65FF", b"7A65FF", b"6601", b"66"))
    (tmp_path / "LOG.old.123").write_bytes(b"'65FF'")
    (tmp_path / "LOCK").write_bytes(b"'65FF'")
    erasure._overwrite_logs(tmp_path, [b"e"])
    assert log.read_bytes() == line % (b"65FF", b"----", b"----", b"----------") + line % (
        b"65FF",
        b"7A65FF",
        b"6601",
        b"66",
    )
    assert (tmp_path / "LOG.old.123").read_bytes() == b"'----'"
    assert (tmp_path / "LOCK").read_bytes() == b"'65FF'"
    erasure._overwrite_logs(tmp_path, [])


def test_the_end_of_a_store_ends_its_threads(tmp_path: Path) -> None:
    store = open_store(tmp_path, StoreSettings(**SHAPE.model_dump()))
    store.apply(batch_of(BOB), offset=0)
    store.erase(b"bob", offset=1)
    assert store.wait_scrubbed(60)
    deadline = time.monotonic() + 20
    while any(thread.name == "scrub-3" for thread in threading.enumerate()):
        # It lives while it has work.
        assert time.monotonic() < deadline
        time.sleep(0.001)
    store.close()
    assert sys.getrefcount(store) >= 2
