"""A follower beside a writer in another process."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from rocksdict import Rdict, RdictIter

from lifeline.core.actions import Kind
from lifeline.core.sequence import SequenceQuery
from lifeline.store import rocksdb
from lifeline.store.errors import CorruptRecordError, NotOwnerError, StoreError
from lifeline.store.partition import PartitionStore
from lifeline.store.reader import SequenceReader
from lifeline.store.secondary_partition import SecondaryPartition
from tests.support.disk import record, rewrite
from tests.support.factories import (
    AGED,
    ANN,
    BOB,
    EVERYTHING,
    HOUR_MS,
    SHAPE,
    Event,
    Model,
    batch_of,
    open_follower,
    open_store,
    perform,
)

WRITER = """
import random, sys
from pathlib import Path
from tests.support.factories import AGED, SHAPE, open_store, perform
shape, step_ms = {"SHAPE": SHAPE, "AGED": AGED}[sys.argv[2]], int(sys.argv[3])
store = open_store(Path(sys.argv[1]), shape)
rng = random.Random(5)
print("ready", flush=True)
for line in sys.stdin:
    # As far as it is told, and what a busy node does between its batches.
    while store.applied_offset < int(line):
        perform(store, store.applied_offset + 1, step_ms)
        if rng.random() < 0.2:
            rng.choice([*store.database.families.values()]).flush()
        if rng.random() < 0.03:
            store.compact()
    print("applied", store.applied_offset, flush=True)
"""


class Writer:
    """A process that applies what `perform` does, as far as it is told to."""

    def __init__(self, path: Path, name: str = "SHAPE", step_ms: int = 1_000) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name, str(step_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear("ready")

    def hear(self, word: str) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(word), line
        return line.removeprefix(word).strip()

    def tell(self, offset: int) -> None:
        """Let it apply up to an offset, and do not wait."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{offset}\n")
        self.process.stdin.flush()

    def apply(self, offset: int) -> None:
        """Let it apply up to an offset, and wait."""
        self.tell(offset)
        assert self.hear("applied") == str(offset)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def writer(path: Path, name: str = "SHAPE", step_ms: int = 1_000) -> Iterator[Writer]:
    started = Writer(path, name, step_ms)
    try:
        yield started
    finally:
        started.kill()


@contextmanager
def following(path: Path, name: str = "SHAPE", step_ms: int = 1_000) -> Iterator["Follow"]:
    with closing(open_follower(path)) as follower:
        yield Follow(follower, Model({"SHAPE": SHAPE, "AGED": AGED}[name]), step_ms)


class Follow:
    """A follower, and the model of what it should show."""

    def __init__(self, follower: SecondaryPartition, model: Model, step_ms: int) -> None:
        self.follower, self.model, self.step_ms = follower, model, step_ms
        self.at = -1

    def check(self) -> int:
        """Assert that the follower shows the moment of its offset; returns the offset."""
        offset = self.follower.applied_offset
        assert offset >= self.at
        for number in range(self.at + 1, offset + 1):
            perform(self.model, number, self.step_ms)
        self.at = offset
        self.model.check(self.follower)
        return offset


@pytest.fixture
def followed(tmp_path: Path, store: PartitionStore) -> Iterator[SecondaryPartition]:
    """A follower of `store`, in this process: for what does not depend on the other being elsewhere."""
    store.apply(batch_of(ANN), offset=0)
    opened = open_follower(tmp_path / "p")
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step_ms"), [("SHAPE", 1_000), ("AGED", 7 * HOUR_MS)])
def test_every_moment_is_one_of_the_writer_s(tmp_path: Path, name: str, step_ms: int) -> None:
    with writer(tmp_path / "p", name, step_ms) as beside:
        beside.apply(5)
        with following(tmp_path / "p", name, step_ms) as follow:
            assert follow.check() == 5
            # Step by step, and then while it runs: flushes and compactions come between.
            for offset in range(6, 40):
                beside.apply(offset)
                assert follow.follower.catch_up().applied_offset == offset
                assert follow.check() == offset
            last, moments = 900, set[int]()
            beside.tell(last)
            deadline = time.monotonic() + 120
            # On a busy machine the follower sees few moments of a writer's run: then there is another run.
            while follow.at < last or len(moments) <= 5:
                assert time.monotonic() < deadline
                if follow.at == last:
                    assert beside.hear("applied") == str(last)
                    last += 300
                    beside.tell(last)
                follow.follower.catch_up()
                moments.add(follow.check())
            assert follow.follower.items > 200


@pytest.mark.slow
def test_a_follower_goes_on_after_the_writer_was_killed(tmp_path: Path) -> None:
    rng = random.Random(1)
    open_store(tmp_path / "p", SHAPE).close()
    with following(tmp_path / "p") as follow:
        assert follow.check() == -1
        for _ in range(4):
            with writer(tmp_path / "p") as beside:
                target = follow.at + 60
                beside.apply(target)
                beside.tell(100_000)
                end = time.monotonic() + rng.uniform(0.0, 0.15)
                while time.monotonic() < end:
                    follow.follower.catch_up()
                    assert follow.check() >= target
            # Nobody writes now: it shows what was written last, and goes on from there when the next one comes.
            last = follow.follower.catch_up().applied_offset
            assert follow.check() == last >= target
            assert follow.follower.catch_up().applied_offset == last
            assert follow.check() == last
        assert follow.follower.staleness().applied_offset == follow.at
        store = open_store(tmp_path / "p", SHAPE)
        assert store.applied_offset == follow.at
        store.close()


@pytest.mark.slow
def test_views_stay_as_they_were(tmp_path: Path) -> None:
    with writer(tmp_path / "p") as beside:
        beside.apply(30)
        with following(tmp_path / "p") as follow:
            follow.check()
            with follow.follower.view() as before:
                beside.apply(400)
                assert follow.follower.catch_up().applied_offset == 400
                assert before.as_of.applied_offset == 30
                rows, chunks = list(contents_of(before.rows)), list(contents_of(before.chunks))
                assert follow.check() == 400
                with follow.follower.view() as after:
                    assert list(contents_of(after.rows)) != rows
                    del after
                # Once more, when the writer has thrown away every table of before.
                beside.apply(800)
                follow.follower.catch_up()
                assert (list(contents_of(before.rows)), list(contents_of(before.chunks))) == (rows, chunks)
                del before


def contents_of(iterator: RdictIter) -> Iterator[tuple[bytes, bytes]]:
    iterator.seek_to_first()
    while iterator.valid():
        yield iterator.key(), iterator.value()
        iterator.next()


def listing(path: Path) -> dict[str, tuple[int, int, int]]:
    # But for the one file that the bindings write whenever a database is opened, with what is in it already.
    return {
        file.name: (stat.st_ino, stat.st_size, 0 if file.name == "rocksdict-config.json" else stat.st_mtime_ns)
        for file in path.iterdir()
        for stat in [file.stat()]
    }


def test_nothing_is_written_beside_the_writer(tmp_path: Path) -> None:
    with writer(tmp_path / "p") as beside:
        beside.apply(120)
        # The writer stands still from here on, its threads too, so what changes is of the follower's doing.
        beside.process.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(beside.process.pid, os.WUNTRACED)[1])
        before = listing(tmp_path / "p")
        with following(tmp_path / "p") as follow:
            for _ in range(5):
                follow.follower.catch_up()
                follow.check()
            assert listing(tmp_path / "p") == before
            own = Path(follow.follower._own.name)
            assert own.exists()
            assert not own.is_relative_to(tmp_path)
        assert listing(tmp_path / "p") == before
        assert not own.exists()


def test_new_items_are_seen(store: PartitionStore, followed: SecondaryPartition) -> None:
    reader = SequenceReader(followed)
    assert followed.items == 3
    # More than one block of them, so that records are folded under the follower.
    for offset in range(1, 12):
        items = range(offset * 1_000, offset * 1_000 + 1_000)
        store.apply(batch_of([Event(b"cy", offset, item, 257) for item in items]), offset=offset)
        if offset % 3:
            followed.catch_up()
            assert followed.items == 3 + 1_000 * offset
            found = reader.read("cy", SequenceQuery(newest=5)).sequences[Kind.EXPLICIT].item_id
            assert found is not None
            assert found.tolist() == list(items)[-5:]


def test_staleness_grows_until_it_catches_up(store: PartitionStore, followed: SecondaryPartition) -> None:
    first = followed.staleness()
    assert first.applied_offset == 0
    assert first.seconds >= 0
    store.apply(batch_of(BOB), offset=4)
    deadline = time.monotonic() + 20
    while followed.staleness().seconds < first.seconds + 0.05:
        assert time.monotonic() < deadline
    stale = followed.staleness()
    # It says how old what it shows may be, and not how old it is.
    assert stale.applied_offset == 0
    fresh = followed.catch_up()
    assert fresh.applied_offset == 4
    assert fresh.seconds < stale.seconds
    assert followed.staleness().seconds >= fresh.seconds


def test_waiting_ends_with_the_catch_up_that_brings_the_offset(
    store: PartitionStore, followed: SecondaryPartition
) -> None:
    arrived = threading.Event()

    def wait() -> None:
        followed.wait_for(7, 20.0)
        arrived.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    store.apply(batch_of(BOB), offset=7)
    assert not arrived.is_set()
    followed.catch_up()
    assert arrived.wait(20)
    waiting.join(20)


def test_what_cannot_be_one_moment_is_not_shown(
    store: PartitionStore, followed: SecondaryPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When a catch-up breaks off, its families may be of different moments: until one succeeds, nothing is read.
    def broken(db: object, path: Path) -> None:
        del db, path
        raise StoreError("it cannot be followed: check the disk")

    store.apply(batch_of(BOB), offset=3)
    with monkeypatch.context() as patching:
        patching.setattr("lifeline.store.secondary_partition.catch_up", broken)
        with pytest.raises(StoreError, match="cannot be followed"):
            followed.catch_up()
        with pytest.raises(StoreError):
            SequenceReader(followed).read("ann", EVERYTHING)
    assert followed.catch_up().applied_offset == 3
    assert SequenceReader(followed).read("ann", EVERYTHING).sequences[Kind.EXPLICIT].length == 30


def test_a_writer_that_never_stands_still_is_given_up_in_time(
    store: PartitionStore, followed: SecondaryPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocksdb, "_STAND_STILL_S", 0.2)
    real, number = Path.read_bytes, [0]

    def read_bytes(path: Path) -> bytes:
        number[0] += 1
        return b"%d" % number[0] if path.name == "CURRENT" else real(path)

    with monkeypatch.context() as patching:
        patching.setattr(Path, "read_bytes", read_bytes)
        with pytest.raises(StoreError, match="faster than it can be followed: try again"):
            followed.catch_up()
    store.apply(batch_of(BOB), offset=9)
    assert followed.catch_up().applied_offset == 9


def test_a_log_that_goes_while_the_partition_is_opened_hides_no_other(
    tmp_path: Path, store: PartitionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A log that nobody needs any more is listed, and gone when it is to be read: RocksDB then reads none of them.
    store.apply(batch_of(ANN), offset=4)
    goes = tmp_path / "p" / "000001.log"
    goes.symlink_to("gone")
    real = rocksdb._open

    def open_(*arguments: Any) -> Rdict:
        db = real(*arguments)
        goes.unlink(missing_ok=True)
        return db

    monkeypatch.setattr(rocksdb, "_open", open_)
    with closing(open_follower(tmp_path / "p")) as follower:
        assert follower.state == store.state


def test_a_log_that_goes_while_it_catches_up_hides_no_other(
    tmp_path: Path, store: PartitionStore, followed: SecondaryPartition
) -> None:
    goes = tmp_path / "p" / "999998.log"

    class Beside:
        """The follower's database, beside a writer that removes a log at a bad moment."""

        def __init__(self, real: Rdict) -> None:
            self.real = real

        def try_catch_up_with_primary(self) -> None:
            self.real.try_catch_up_with_primary()
            goes.unlink()

    store.apply(batch_of(BOB), offset=4)
    goes.symlink_to("gone")
    followed._secondary = followed._secondary._replace(db=cast("Rdict", Beside(followed._secondary.db)))
    assert followed.catch_up().applied_offset == 4
    assert followed.state == store.state


def test_where_there_is_no_store_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no store: name the data directory of a node that has run"):
        open_follower(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="holds no store"):
        open_follower(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_damage_is_named_as_by_the_writer(tmp_path: Path, store: PartitionStore) -> None:
    store.apply(batch_of(ANN), offset=0)
    store.close()
    key, data = record(tmp_path / "p", "chunks", b"ann")
    rewrite(tmp_path / "p", "chunks", key, data[:-1])
    with (
        closing(open_follower(tmp_path / "p")) as follower,
        pytest.raises(CorruptRecordError, match="partition 3, user ann, record chunk 0-0-257"),
    ):
        SequenceReader(follower).read("ann", EVERYTHING)


def test_several_may_follow_and_the_writer_does_not_mind(tmp_path: Path, store: PartitionStore) -> None:
    model = Model(SHAPE)
    with ExitStack() as stack:
        followers = [stack.enter_context(closing(open_follower(tmp_path / "p"))) for _ in range(3)]
        for offset in range(60):
            perform(store, offset)
            perform(model, offset)
        store.compact()
        for follower in followers:
            assert follower.catch_up().applied_offset == 59
            model.check(follower)
        model.check(store)
        store.close()
        again = open_store(tmp_path / "p", SHAPE)
        model.check(again)
        again.close()


def test_a_closed_follower_says_so(followed: SecondaryPartition) -> None:
    reader = SequenceReader(followed)
    followed.close()
    followed.close()
    for late in (
        followed.catch_up,
        lambda: reader.read("ann", EVERYTHING),
        lambda: followed.wait_for(9, 5.0),
        lambda: list(followed.users()),
    ):
        with pytest.raises(NotOwnerError):
            late()


def test_closing_waits_for_a_view(followed: SecondaryPartition) -> None:
    closer = threading.Thread(target=followed.close)
    with followed.view() as view:
        closer.start()
        view.chunks.seek_to_first()
        assert view.chunks.valid()
        assert closer.is_alive()
        del view
    closer.join(10)
    assert not closer.is_alive()


def test_statistics_are_those_of_the_partition(tmp_path: Path, store: PartitionStore) -> None:
    store.apply(batch_of(ANN), offset=0)
    store.compact()
    with closing(open_follower(tmp_path / "p")) as follower:
        assert [family.tables for family in follower.statistics().families.values()] == [1, 1, 1]
