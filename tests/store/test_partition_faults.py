"""What breaks under a partition store: its records, its disk, its process."""

import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import Rdict, WriteBatch

from lifeline.core.actions import ActionBatch, Kind
from lifeline.core.sequence import SequenceQuery
from lifeline.store import keys
from lifeline.store.chunk import encode
from lifeline.store.errors import CorruptRecordError, FormatVersionError, StoreFailedError
from lifeline.store.partition import PartitionStore
from lifeline.store.reader import SequenceReader
from lifeline.store.segment import RAW, RUN, pack_segment
from tests.support.chunks import signed
from tests.support.disk import contents, damage, record, rewrite
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
    columns_of,
    open_store,
    outcome_of_waiting,
    perform,
    tiny,
    work,
)
from tests.support.layout import check_layout
from tests.support.processes import child, last_acknowledged, said

# Damage and formats

ANNS = keys.sequence_prefix(b"ann", Kind.EXPLICIT)
WIDE = tiny(max_explicit=300, chunk_events=100, keep_unsealed=100, inline_events=8, max_explicit_age_days=1)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The directory of a closed store with chunks, segments, heads and items."""
    opened = open_store(tmp_path / "closed", SHAPE)
    opened.apply(batch_of(ANN[:24]), offset=0)
    opened.apply(batch_of([*ANN[24:], *BOB]), offset=1)
    opened.close()
    return tmp_path / "closed"


@pytest.fixture(scope="module")
def wide_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a closed store in which ann has two chunks, an encoded run, a raw segment, and inline events."""
    path = tmp_path_factory.mktemp("wide") / "wide"
    opened = open_store(path, WIDE)
    for offset, moments in enumerate([range(310), range(310, 320), range(320, 324)]):
        opened.apply(batch_of([Event(b"ann", at, at % 3, 257) for at in moments]), offset=offset)
    opened.apply(batch_of(BOB), offset=3)
    opened.close()
    found = {key.removeprefix(ANNS): data[:1] for key, data in contents(path, "rows").items()}
    assert (found[b"\x00"], found[b"\x01"]) == (RUN, RAW)
    return path


@pytest.fixture
def wide(wide_original: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return shutil.copytree(wide_original, tmp_path / "wide")


# Where the record is, what a message calls it, and an event that the writer cannot place without a look at it.
RECORDS: dict[str, tuple[str, bytes, str, Event]] = {
    "head": ("rows", ANNS, "head", Event(b"ann", 999, 1, 257)),
    "run": ("rows", keys.segment_key(ANNS, 0), "segment 0", Event(b"ann", 250, 2, 257)),
    "raw": ("rows", keys.segment_key(ANNS, 1), "segment 1", Event(b"ann", 312, 2, 257)),
    "older": ("chunks", keys.chunk_key(ANNS, (0, 0, 257)), "chunk 0-0-257", Event(b"ann", 50, 9, 257)),
    "newer": ("chunks", keys.chunk_key(ANNS, (100, 1, 257)), "chunk 100-1-257", Event(b"ann", 150, 9, 257)),
}
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda data: data[:-1],
    "without its last 14 bytes": lambda data: data[:-14],
    "longer": lambda data: data + b"\0",
    "gone": lambda _: None,
    "empty": lambda _: b"",
}
USES: dict[str, Callable[[PartitionStore, Event], object]] = {
    "read": lambda store, _: SequenceReader(store).read("ann", SequenceQuery()),
    "read many": lambda store, _: SequenceReader(store).read_many(["bob", "ann"], SequenceQuery()),
    "insert": lambda store, event: store.apply(batch_of([Event(b"bob", 5, 5, 257), event]), offset=4),
    "expire": lambda store, _: store.apply(batch_of([Event(b"bob", 26 * HOUR_MS, 5, 257)]), offset=4),
    "erase": lambda store, _: store.erase(b"ann", offset=4),
}
# What nobody can see: a sequence without a head is one that nobody knows (a recount finds it), and an insert looks at
# the chunk that its event belongs to, which is the one before where one is missing.
UNSEEN = {("head", "gone", use) for use in USES} | {("newer", "gone", "insert")}


@pytest.mark.parametrize("use", list(USES))
@pytest.mark.parametrize("how", list(DAMAGES))
@pytest.mark.parametrize("which", list(RECORDS))
def test_damage_names_partition_user_and_record(wide: Path, which: str, how: str, use: str) -> None:
    if (which, how, use) in UNSEEN:
        return
    family, key, record_name, needs_it = RECORDS[which]
    rewrite(wide, family, key, DAMAGES[how](contents(wide, family)[key]))
    opened = open_store(wide, WIDE)
    before = opened.state
    with pytest.raises(CorruptRecordError) as caught:
        USES[use](opened, needs_it)
    error = caught.value
    # Where a chunk is missing, or whole events of a raw segment, it is the head that counts more than are there.
    names = {record_name, "head"} if how in {"gone", "without its last 14 bytes"} else {record_name}
    assert (error.partition, error.user, error.record in names) == (3, "ann", True), str(error)
    assert f"(partition 3, user ann, record {error.record})" in str(error)
    assert "set the partition's directory aside" in str(error)
    assert opened.state == before
    opened.close()


def test_every_flipped_bit_of_a_chunk_or_a_run_is_found(wide: Path) -> None:
    rng = random.Random(5)
    for which in ("run", "older"):
        family, key, record_name, _ = RECORDS[which]
        data = contents(wide, family)[key]
        for _ in range(12):
            # The first byte of a run says that it is one; what stands there else is no segment.
            broken = bytearray(data)
            broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            rewrite(wide, family, key, bytes(broken))
            opened = open_store(wide, WIDE)
            with pytest.raises(CorruptRecordError, match=f"partition 3, user ann, record {record_name}"):
                SequenceReader(opened).read("ann", SequenceQuery())
            opened.close()
        rewrite(wide, family, key, data)


def test_others_are_not_touched_by_damage(wide: Path) -> None:
    family, key, *_ = RECORDS["older"]
    rewrite(wide, family, key, b"broken")
    opened = open_store(wide, WIDE)
    reader = SequenceReader(opened)
    assert reader.read("bob", EVERYTHING).sequences[Kind.EXPLICIT].length == 6
    # Neither is what was written after it.
    newest = reader.read("ann", SequenceQuery(newest=3)).sequences[Kind.EXPLICIT].timestamp_ms
    assert newest is not None
    assert newest.tolist() == [321, 322, 323]
    assert reader.read("ann", SequenceQuery(from_timestamp_ms=101)).sequences[Kind.EXPLICIT].length == 223
    opened.close()


@pytest.mark.parametrize("late", ["insert", "erase"])
def test_a_broken_chunk_stops_the_writer_that_needs_it(closed: Path, late: str) -> None:
    damage(closed, "chunks", b"ann", 40, 0xAA)
    opened = open_store(closed, SHAPE)
    before = opened.state
    needs: dict[str, Callable[[], object]] = {
        "insert": lambda: opened.apply(batch_of([Event(b"ann", 0, 99, 257)]), offset=2),
        "erase": lambda: opened.erase(b"ann", offset=2),
    }
    with pytest.raises(CorruptRecordError):
        needs[late]()
    assert opened.state == before
    with pytest.raises(StoreFailedError, match="restart the node"):
        opened.apply(ActionBatch.empty(), offset=3)
    opened.close()
    again = open_store(closed, SHAPE)
    assert again.state == before
    again.close()


@pytest.mark.parametrize("query", [SequenceQuery(), SequenceQuery(from_timestamp_ms=0), SequenceQuery(newest=30)])
@pytest.mark.parametrize("family", ["rows", "chunks"])
def test_a_record_that_is_gone_is_noticed(closed: Path, family: str, query: SequenceQuery) -> None:
    key, _ = record(closed, family, keys.segment_key(ANNS, 0) if family == "rows" else ANNS)
    rewrite(closed, family, key, None)
    opened = open_store(closed, SHAPE)
    with pytest.raises(CorruptRecordError) as caught:
        SequenceReader(opened).read("ann", query)
    assert caught.value.user == "ann"
    opened.close()


def test_a_chunk_that_is_gone_in_the_middle_is_noticed_by_an_erasure(closed: Path) -> None:
    # Else the running sums would keep what nobody can take away any more.
    chunks = [key for key in contents(closed, "chunks") if key.startswith(b"ann")]
    rewrite(closed, "chunks", chunks[len(chunks) // 2], None)
    opened = open_store(closed, SHAPE)
    with pytest.raises(CorruptRecordError, match="partition 3, user ann"):
        opened.erase(b"ann", offset=2)
    opened.close()


def test_a_head_of_the_future_is_refused_by_readers_and_writers(closed: Path) -> None:
    damage(closed, "rows", ANNS, 0, 3)
    opened = open_store(closed, SHAPE)
    with pytest.raises(FormatVersionError, match=r"a head has format 3 .*, and this program reads format 2"):
        SequenceReader(opened).read("ann", EVERYTHING)
    with pytest.raises(FormatVersionError, match="a head has format 3"):
        opened.erase(b"ann", offset=2)
    opened.close()


def test_a_chunk_of_the_future_is_refused(closed: Path) -> None:
    key, data = record(closed, "chunks", b"ann")
    rewrite(closed, "chunks", key, signed(b"\x03" + data[1:]))
    opened = open_store(closed, SHAPE)
    with pytest.raises(FormatVersionError, match=r"a chunk has format 3 .*, and this program reads format 2"):
        SequenceReader(opened).read("ann", EVERYTHING)
    opened.close()


@pytest.mark.parametrize("what", ["chunk", "run", "inline"])
def test_an_item_that_the_partition_does_not_have_is_corrupt(wide: Path, what: str) -> None:
    events = columns_of([(at, 77, 257) for at in range(100)])
    if what == "inline":
        key, data = record(wide, "rows", ANNS)
        rewrite(wide, "rows", key, data[:-6] + b"\x4d" + data[-5:])
    elif what == "run":
        rewrite(wide, "rows", keys.segment_key(ANNS, 0), pack_segment(columns_of([(at, 77, 257) for at in range(110)])))
    else:
        rewrite(wide, "chunks", RECORDS["older"][1], encode(events))
    opened = open_store(wide, WIDE)
    with pytest.raises(CorruptRecordError, match="item") as caught:
        SequenceReader(opened).read("ann", SequenceQuery())
    assert (caught.value.partition, caught.value.user) == (3, "ann")
    with pytest.raises(CorruptRecordError, match="partition 3, user ann"):
        opened.erase(b"ann", offset=4)
    opened.close()


def test_a_state_of_the_future_or_none_at_all_does_not_open(closed: Path) -> None:
    key, data = record(closed, "meta", keys.STATE_KEY)
    rewrite(closed, "meta", key, b"\x04" + data[1:])
    with pytest.raises(FormatVersionError, match="the partition has format 4"):
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
    monkeypatch.setattr(store.database, "db", Watched(store.database.db, fails="IO error: Input/output error"))
    with pytest.raises(StoreFailedError, match="Input/output error"):
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
from tests.support.factories import SHAPE, batch_of, open_store, work
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
from tests.support.factories import AGED, SHAPE, open_store, perform
shape, step_ms = {"SHAPE": SHAPE, "AGED": AGED}[sys.argv[2]], int(sys.argv[3])
store = open_store(Path(sys.argv[1]), shape)
print("ready", store.applied_offset, flush=True)
at = store.applied_offset + 1
while True:
    perform(store, at, step_ms)
    if at % 41 == 40:
        store.compact()
    print(at, flush=True)
    at += 1
"""


@pytest.mark.parametrize(("name", "step_ms"), [("SHAPE", 1_000), ("AGED", 7 * HOUR_MS)])
@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path: Path, name: str, step_ms: int) -> None:
    shape = {"SHAPE": SHAPE, "AGED": AGED}[name]
    rng, acknowledged, model = random.Random(11), -1, Model(shape)
    kills = 0
    # On a busy machine ten kills may come before there is much to lose.
    while kills < 10 or acknowledged <= 50:
        kills += 1
        with child(APPLIER, tmp_path / "killed", name, step_ms) as process:
            applied = int(said(process, "ready"))
            # One batch may be written whose acknowledgement was never heard; none that was heard is lost.
            assert acknowledged <= applied <= acknowledged + 1
            # A moment of its life, whatever it is doing then: batches, erasures, flushes, compactions, scrubs.
            time.sleep(rng.uniform(0.0, 0.15))
            acknowledged = last_acknowledged(process, applied)
    killed, whole = open_store(tmp_path / "killed", shape), open_store(tmp_path / "whole", shape)
    ageless = Model(shape.model_copy(update={"max_explicit_age_days": None, "max_impression_age_days": None}))
    assert killed.applied_offset > 50
    for offset in range(killed.applied_offset + 1):
        perform(whole, offset, step_ms)
        perform(model, offset, step_ms)
        perform(ageless, offset, step_ms)
    assert (model.events < ageless.events) == (name == "AGED")
    assert killed.state == whole.state
    for store in (killed, whole):
        model.check(store)
        check_layout(store, shape)
        assert store.wait_scrubbed(30)
        model.check(store)
        check_layout(store, shape)
        store.close()


def test_a_batch_is_one_write(store: PartitionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store.database.db)
    monkeypatch.setattr(store.database, "db", watched)
    store.apply(batch_of(ANN + BOB), offset=0)
    store.erase(b"bob", offset=1)
    store.apply(ActionBatch.empty(), offset=2)
    assert len(watched.writes) == 3
    # Both families' ranges, the erasure key and the state; then the state alone.
    assert watched.writes[1:] == [4, 1]
