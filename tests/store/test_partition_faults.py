"""What breaks under a partition store: its records, its disk, its process."""

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import Rdict, WriteBatch

from store import keys
from store.actions import ActionBatch, Kind
from store.errors import CorruptRecordError, FormatVersionError, StoreFailedError
from store.fingerprint import user_hash
from store.partition import PartitionStore
from store.reader import SequenceReader
from store.sequence import SequenceQuery
from tests.store.disk import damage, record, rewrite
from tests.store.made import (
    ANN,
    BOB,
    EVERYTHING,
    SHAPE,
    Event,
    Model,
    batch_of,
    open_store,
    outcome_of_waiting,
    perform,
    work,
)
from tests.store.processes import child, last_acknowledged, said

# Damage and formats


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The directory of a closed store with chunks, segments, heads and items."""
    opened = open_store(tmp_path / "closed", SHAPE)
    opened.apply(batch_of(ANN[:24]), offset=0)
    opened.apply(batch_of([*ANN[24:], *BOB]), offset=1)
    opened.close()
    return tmp_path / "closed"


def test_a_broken_chunk_names_partition_and_user(closed: Path) -> None:
    damage(closed, "chunks", user_hash(b"ann"), 40, 0xAA)
    opened = open_store(closed, SHAPE)
    reader = SequenceReader(opened)
    with pytest.raises(CorruptRecordError, match="checksum") as caught:
        reader.read("ann", EVERYTHING)
    assert (caught.value.partition, caught.value.user) == (3, "ann")
    assert "partition 3, user ann" in str(caught.value)
    assert "set the partition's directory aside" in str(caught.value)
    # Others are not touched by it, and neither is what was written after it.
    assert reader.read("bob", EVERYTHING).sequences[Kind.EXPLICIT].length == 6
    assert reader.read("ann", SequenceQuery(newest=3)).sequences[Kind.EXPLICIT].timestamp_ms.tolist() == [27, 28, 29]  # type: ignore[union-attr]
    opened.close()


@pytest.mark.parametrize("late", ["insert", "erase"])
def test_a_broken_chunk_stops_the_writer_that_needs_it(closed: Path, late: str) -> None:
    damage(closed, "chunks", user_hash(b"ann"), 40, 0xAA)
    opened = open_store(closed, SHAPE)
    before = opened.state
    needs: dict[str, Callable[[], object]] = {
        "insert": lambda: opened.apply(batch_of([Event(b"ann", 0, 99, 257)]), offset=2),
        "erase": lambda: opened.erase(b"ann", offset=2),
    }
    with pytest.raises(CorruptRecordError) as caught:
        needs[late]()
    assert caught.value.partition == 3
    assert caught.value.user is not None
    assert opened.state == before
    with pytest.raises(StoreFailedError, match="restart the node"):
        opened.apply(ActionBatch.empty(), offset=3)
    opened.close()
    again = open_store(closed, SHAPE)
    assert again.state == before
    again.close()


@pytest.mark.parametrize("family", ["rows", "chunks"])
def test_a_record_that_is_gone_is_noticed(closed: Path, family: str) -> None:
    prefix = keys.sequence_prefix(user_hash(b"ann"), Kind.EXPLICIT)
    key, _ = record(closed, family, prefix + keys.SEGMENT_SUFFIX if family == "rows" else prefix)
    rewrite(closed, family, key, None)
    opened = open_store(closed, SHAPE)
    for query in (SequenceQuery(), SequenceQuery(from_timestamp_ms=0), SequenceQuery(newest=30)):
        with pytest.raises(CorruptRecordError) as caught:
            SequenceReader(opened).read("ann", query)
        assert caught.value.user == "ann"
    opened.close()


def test_a_head_that_is_cut_off_names_partition_and_user(closed: Path) -> None:
    key, data = record(closed, "rows", user_hash(b"ann"))
    rewrite(closed, "rows", key, data[:-1])
    opened = open_store(closed, SHAPE)
    with pytest.raises(CorruptRecordError, match="partition 3, user ann"):
        SequenceReader(opened).read("ann", EVERYTHING)
    with pytest.raises(CorruptRecordError, match=f"partition 3, user {user_hash(b'ann').hex()}"):
        opened.apply(batch_of(ANN), offset=2)
    opened.close()


@pytest.mark.parametrize(
    ("family", "suffix", "what"), [("rows", keys.HEAD_SUFFIX, "a head"), ("rows", keys.SEGMENT_SUFFIX, "a segment")]
)
def test_a_format_of_the_future_is_refused_by_readers_and_writers(
    closed: Path, family: str, suffix: bytes, what: str
) -> None:
    damage(closed, family, keys.sequence_prefix(user_hash(b"ann"), Kind.EXPLICIT) + suffix, 0, 2)
    opened = open_store(closed, SHAPE)
    with pytest.raises(FormatVersionError, match=f"{what} has format 2, and this program reads format 1"):
        SequenceReader(opened).read("ann", EVERYTHING)
    with pytest.raises(FormatVersionError, match=what):
        opened.erase(b"ann", offset=2)
    opened.close()


def test_a_state_of_the_future_or_none_at_all_does_not_open(closed: Path) -> None:
    key, data = record(closed, "meta", keys.STATE_KEY)
    rewrite(closed, "meta", key, b"\x02" + data[1:])
    with pytest.raises(FormatVersionError, match="the partition has format 2"):
        open_store(closed, SHAPE)
    rewrite(closed, "meta", key, data[:-1])
    with pytest.raises(CorruptRecordError, match="a state record of"):
        open_store(closed, SHAPE)
    # A refusal leaves no lock behind.
    rewrite(closed, "meta", key, data)
    open_store(closed, SHAPE).close()


@pytest.mark.parametrize("cut", [8, 3])
def test_item_ids_that_are_missing_do_not_open(tmp_path: Path, cut: int) -> None:
    opened = open_store(tmp_path, SHAPE)
    for offset in range(3):
        opened.apply(
            batch_of([Event(b"ann", offset, item, 257) for item in range(offset * 5, offset * 5 + 5)]), offset=offset
        )
    opened.close()
    key, data = record(tmp_path, "meta", keys.items_key(5))
    rewrite(tmp_path, "meta", key, data[:-cut])
    with pytest.raises(CorruptRecordError, match="partition 3"):
        open_store(tmp_path, SHAPE)


# Failure


class Watched:
    """A database that counts the records of each write, or refuses to write."""

    def __init__(self, real: Rdict, fails: str | None = None) -> None:
        self.real, self.fails, self.writes = real, fails, list[int]()

    def write(self, batch: WriteBatch) -> None:
        if self.fails is not None:
            raise Exception(self.fails)  # noqa: TRY002 - as rocksdict does
        self.writes.append(batch.len())
        self.real.write(batch)

    def close(self) -> None:
        self.real.close()


def test_a_write_that_fails_poisons_the_store(
    tmp_path: Path, store: PartitionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(batch_of(ANN), offset=5)
    before = store.state
    waiting = threading.Thread(target=lambda: outcome.append(outcome_of_waiting(store)))
    outcome: list[str] = []
    waiting.start()
    monkeypatch.setattr(store, "_db", Watched(store._db, fails="IO error: No space left on device"))
    with pytest.raises(StoreFailedError, match="No space left on device"):
        store.apply(batch_of(BOB), offset=6)
    assert store.state == before
    for again in (
        lambda: store.apply(batch_of(BOB), offset=6),
        lambda: store.apply(ActionBatch.empty(), offset=6),
        lambda: store.erase(b"ann", offset=6),
        lambda: SequenceReader(store).read("ann", EVERYTHING),
        lambda: store.wait_for(6, 5.0),
    ):
        with pytest.raises(StoreFailedError, match="restart the node"):
            again()
    # Nobody waits for what will not come.
    waiting.join(5)
    assert outcome == ["StoreFailedError"]
    store.close()
    again_open = open_store(tmp_path / "p", SHAPE)
    assert again_open.state == before
    again_open.close()


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from tests.store.made import SHAPE, batch_of, open_store, work
path = Path(sys.argv[1])
store = open_store(path, SHAPE)
for at in range(20):
    store.apply(batch_of(work(at)), offset=at)
log = max(file.stat().st_size for file in path.glob("*.log"))
resource.setrlimit(resource.RLIMIT_FSIZE, (log + 3000, log + 3000))
errors = []
acknowledged = store.applied_offset
for at in range(20, 200):
    try:
        store.apply(batch_of(work(at)), offset=at)
        acknowledged = at
    except Exception as error:
        errors.append(type(error).__name__)
print("result", json.dumps([acknowledged, store.applied_offset, errors]), flush=True)
sys.stdin.read()
"""


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with child(FULL_DISK, tmp_path) as process:
        acknowledged, applied, errors = json.loads(said(process, "result"))
    assert 20 <= acknowledged < 199
    assert applied == acknowledged
    assert len(errors) == 199 - acknowledged
    assert set(errors) == {"StoreFailedError"}
    store, model = open_store(tmp_path, SHAPE), Model(SHAPE)
    assert store.applied_offset == acknowledged
    for at in range(acknowledged + 1):
        model.apply(work(at))
    model.check(store)
    store.apply(batch_of(work(acknowledged + 1)), offset=acknowledged + 1)
    store.close()


# Crashes

APPLIER = """
import sys
from pathlib import Path
from tests.store.made import SHAPE, open_store, perform
store = open_store(Path(sys.argv[1]), SHAPE)
print("ready", store.applied_offset, flush=True)
at = store.applied_offset + 1
while True:
    perform(store, at)
    print(at, flush=True)
    at += 1
"""


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    rng, acknowledged, model = random.Random(11), -1, Model(SHAPE)
    for _ in range(10):
        with child(APPLIER, tmp_path / "killed") as process:
            applied = int(said(process, "ready"))
            # One batch may be written whose acknowledgement was never heard; none that was heard is lost.
            assert acknowledged <= applied <= acknowledged + 1
            time.sleep(rng.uniform(0.0, 0.15))
            acknowledged = last_acknowledged(process, applied)
    killed, whole = open_store(tmp_path / "killed", SHAPE), open_store(tmp_path / "whole", SHAPE)
    assert killed.applied_offset > 50
    for offset in range(killed.applied_offset + 1):
        perform(whole, offset)
        perform(model, offset)
    assert killed.state == whole.state
    model.check(killed)
    model.check(whole)
    killed.close()
    whole.close()


def test_a_batch_is_one_write(store: PartitionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store._db)
    monkeypatch.setattr(store, "_db", watched)
    store.apply(batch_of(ANN + BOB), offset=0)
    store.erase(b"bob", offset=1)
    store.apply(ActionBatch.empty(), offset=2)
    assert len(watched.writes) == 3
    # Both families' ranges and the state; then the state alone.
    assert watched.writes[1:] == [3, 1]
