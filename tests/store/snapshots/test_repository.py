"""Snapshots: made while the store is written to, incremental, retained, and restored only when they are whole."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from lifeline.store import keys
from lifeline.store.errors import NotOwnerError, RetentionPolicyError, SnapshotError, SnapshotRefusedError
from lifeline.store.partition import PartitionStore
from lifeline.store.recount import recount
from lifeline.store.snapshots.files import remove_leftovers
from lifeline.store.snapshots.manifest import Manifest
from lifeline.store.snapshots.repository import Snapshot, SnapshotRepository
from lifeline.store.snapshots.settings import SnapshotSettings
from lifeline.store.state import State
from tests.support.disk import record, rewrite
from tests.support.factories import SHAPE, Model, batch_of, open_follower, open_store, tiny, work
from tests.support.processes import child, said
from tests.support.snapshots import P, contents, fill, manifests, remote

CHILD = """
import sys
import threading
from pathlib import Path
from lifeline.store.snapshots.repository import SnapshotRepository
from tests.support.factories import SHAPE, open_store

def hold(done, total):
    if done == total:
        print("uploaded", flush=True)
        threading.Event().wait()

SnapshotRepository(sys.argv[2]).create(open_store(Path(sys.argv[1]), SHAPE), progress=hold)
"""


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/snapshots"
        return
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}"
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


@pytest.fixture
def repository(url: str) -> SnapshotRepository:
    return SnapshotRepository(url)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[PartitionStore]:
    """Partition 3 in `tmp_path`/data, with offsets 0 to 19 applied."""
    store = open_store(tmp_path / "data" / P, SHAPE)
    fill(store, range(20))
    yield store
    store.close()


def only(repository: SnapshotRepository) -> Snapshot:
    (found,) = repository.snapshots()
    return found


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


# Making


def test_a_snapshot_says_what_it_is(repository: SnapshotRepository, source: PartitionStore) -> None:
    made = repository.create(source, topic="actions")
    found = only(repository)
    assert (found.partition, found.id, found.problem, found.manifest) == (3, made.manifest.id, None, made.manifest)
    assert (made.manifest.topic, made.manifest.state.applied_offset) == ("actions", 19)
    assert made.manifest.state.events == source.state.events
    assert datetime.now(UTC) - made.manifest.created_at < timedelta(minutes=1)
    assert source.policy is not None
    assert made.manifest.contract == source.policy._asdict()
    assert made.uploaded_bytes == made.manifest.total_bytes > 0
    assert repository.snapshots(4) == []
    assert repository.partitions() == [3]


def test_only_what_changed_is_uploaded(repository: SnapshotRepository, source: PartitionStore) -> None:
    source.compact()
    first = repository.create(source)
    fill(source, [20])
    steps: list[tuple[int, int]] = []
    second = repository.create(source, progress=lambda done, total: steps.append((done, total)))
    known = {file.sha256 for file in first.manifest.files}
    new = [file for file in second.manifest.files if file.sha256 not in known]
    assert second.uploaded_files == len({file.sha256 for file in new}) < len(second.manifest.files)
    assert second.uploaded_bytes == sum(file.bytes for file in new)
    assert len(steps) == len(second.manifest.files)
    assert steps[-1] == (second.manifest.total_bytes, second.manifest.total_bytes)


def test_what_has_another_size_is_uploaded_again(repository: SnapshotRepository, source: PartitionStore) -> None:
    first = repository.create(source).manifest.files[0]
    remote(repository).write(f"{P}/files/{first.sha256}", b"cut")
    assert only(repository).problem == f"{first.name} has 3 bytes, and must have {first.bytes}"
    repository.create(source)
    assert [one.problem for one in repository.snapshots()] == [None, None]


def test_the_store_goes_on_while_snapshots_are_made(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    states = {source.applied_offset: source.state}
    done = threading.Event()

    def write() -> None:
        offset = 20
        while not done.is_set() and offset < 3_000:
            fill(source, [offset])
            states[offset] = source.state
            offset += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = [repository.create(source).manifest.id for _ in range(3)]
    finally:
        done.set()
        writer.join()
    for name in made:
        into = tmp_path / name
        repository.restore(3, into, SHAPE, snapshot=name)
        follower = open_follower(into)
        assert follower.state == states[follower.applied_offset]
        follower.close()


def test_a_closed_store_is_not_copied(repository: SnapshotRepository, source: PartitionStore) -> None:
    source.close()
    with pytest.raises(NotOwnerError):
        repository.create(source)
    assert repository.snapshots() == []


def test_nothing_stays_beside_the_store(repository: SnapshotRepository, source: PartitionStore) -> None:
    repository.create(source)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repository.create(source, progress=stop)
    assert left_in(source.path.parent) == [P]
    assert len(repository.snapshots()) == 1
    assert remote(repository).files(f"{P}/uploads") == {}


def test_a_creator_that_is_killed_leaves_no_snapshot(tmp_path: Path) -> None:
    data, repository = tmp_path / "data", SnapshotRepository(f"file://{tmp_path}/snapshots", keep=1)
    store = open_store(data / P, SHAPE)
    fill(store, range(20))
    store.close()
    with child(CHILD, data / P, repository.url) as process:
        said(process, "uploaded")
        process.kill()
        process.wait()
    there = contents(repository)
    assert there
    assert repository.snapshots() == []
    with pytest.raises(SnapshotError, match="has no snapshot of partition 3: create one"):
        repository.restore(3, tmp_path / "back", SHAPE)
    (left,) = [name for name in left_in(data) if name != P]
    assert left.startswith(f"{P}.snapshot-")
    assert remove_leftovers(data) == [left]
    assert left_in(data) == [P]

    store = open_store(data / P, SHAPE)
    made = repository.create(store)
    # What it had uploaded is used, and nothing is removed: it may still be at work, for all that anyone knows.
    assert made.uploaded_files < len(made.manifest.files)
    assert contents(repository) > {file.sha256 for file in made.manifest.files}
    (announced,) = remote(repository).files(f"{P}/uploads")
    remote(repository).remove(f"{P}/uploads/{announced}")
    remote(repository).write(f"{P}/uploads/20200101T000000-0", b"")
    made = repository.create(store)
    assert contents(repository) == {file.sha256 for file in made.manifest.files}
    assert remote(repository).files(f"{P}/uploads") == {}
    store.close()


# Retention


def test_the_newest_stay_and_only_contents_that_no_manifest_names_go(
    url: str, source: PartitionStore, tmp_path: Path
) -> None:
    repository = SnapshotRepository(url, keep=2)
    other = open_store(tmp_path / "other", SHAPE, partition=4)
    SnapshotRepository(url, keep=1).create(other)
    other.close()
    made = []
    for offset in range(20, 24):
        fill(source, [offset])
        source.compact()
        made.append(repository.create(source).manifest)
    found = repository.snapshots()
    assert [one.id for one in found if one.partition == 3] == [made[3].id, made[2].id]
    assert [one.problem for one in found] == [None, None, None]
    kept = {file.sha256 for manifest in made[2:] for file in manifest.files}
    assert contents(repository) == kept
    assert not {file.sha256 for file in made[0].files} <= kept


def test_the_newest_is_the_one_of_the_highest_offset(url: str, source: PartitionStore, tmp_path: Path) -> None:
    repository = SnapshotRepository(url, keep=1)
    fill(source, range(20, 40))
    newest = repository.create(source).manifest
    behind = open_store(tmp_path / "behind", SHAPE)
    fill(behind, range(5))
    mine = repository.create(behind).manifest
    behind.close()
    # Whoever made it finds it, though it is not among those that stay.
    assert [one.id for one in repository.snapshots()] == [newest.id, mine.id]
    fill(source, [40])
    again = repository.create(source).manifest
    assert [one.id for one in repository.snapshots()] == [again.id]


def test_a_refused_snapshot_takes_no_place_among_those_that_stay(url: str, source: PartitionStore) -> None:
    repository = SnapshotRepository(url, keep=1)
    good = repository.create(source).manifest
    fill(source, [20])
    bad = SnapshotRepository(url, keep=2).create(source).manifest
    remote(repository).write(f"{P}/manifests/{bad.id}.json", b"{}")
    there = contents(repository)
    older = open_store(source.path.parent / "older", SHAPE)
    fill(older, range(10))
    repository.create(older)
    older.close()
    found = repository.snapshots()
    assert [(one.id, one.problem is None) for one in found[:2]] == [(bad.id, False), (good.id, True)]
    # Nobody knows what the damaged one needs, so all of it stays until the manifest is too old itself.
    assert there <= contents(repository)
    fill(source, [21])
    last = repository.create(source).manifest
    assert [one.id for one in repository.snapshots()] == [last.id]
    assert contents(repository) == {file.sha256 for file in last.files}


def test_of_two_creators_none_removes_what_the_other_needs(url: str, source: PartitionStore, tmp_path: Path) -> None:
    one, two = SnapshotRepository(url, keep=1), SnapshotRepository(url, keep=1)
    first = one.create(source).manifest
    made: list[Manifest] = []

    def meanwhile(done: int, total: int) -> None:
        if done == total and not made:
            fill(source, range(20, 30))
            source.compact()
            made.append(two.create(source).manifest)

    mine = one.create(source, progress=meanwhile).manifest
    assert first.id not in [each.id for each in one.snapshots()]
    assert [(each.id, each.problem) for each in one.snapshots()] == [(made[0].id, None), (mine.id, None)]
    for manifest in (mine, made[0]):
        one.restore(3, tmp_path / manifest.id, SHAPE, snapshot=manifest.id)


def test_a_snapshot_whose_contents_are_taken_away_while_it_is_made_is_not_one(
    repository: SnapshotRepository, source: PartitionStore
) -> None:
    repository.create(source)

    def take_away(done: int, total: int) -> None:
        if done == total:
            # All of them: which ones the new snapshot shares with the first depends on compactions.
            for name in contents(repository):
                remote(repository).remove(f"{P}/files/{name}")

    fill(source, [20])
    before = manifests(repository)
    with pytest.raises(SnapshotError, match=r"is incomplete \(.* are missing, .*create it again"):
        repository.create(source, progress=take_away)
    assert manifests(repository) == before


# Restoring


@pytest.mark.parametrize("exists", [False, True])
def test_a_restored_partition_is_the_source_and_goes_on(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path, exists: bool
) -> None:
    made = repository.create(source, topic="actions")
    into = tmp_path / "back" / P
    if exists:
        into.mkdir(parents=True)
    steps: list[tuple[int, int]] = []
    restored = repository.restore(
        3, into, SHAPE, topic="actions", progress=lambda done, total: steps.append((done, total))
    )
    assert (restored.manifest, restored.path) == (made.manifest, into)
    assert steps[-1] == (made.manifest.total_bytes, made.manifest.total_bytes)
    assert left_in(into.parent) == [P]
    back = open_store(into, SHAPE)
    assert back.state == source.state
    assert recount(back) == recount(source)
    fill(back, range(20, 60))
    model = Model(SHAPE)
    for offset in range(60):
        model.apply(work(offset))
    model.check(back)
    back.close()


def test_an_empty_partition_has_snapshots_too(repository: SnapshotRepository, tmp_path: Path) -> None:
    store = open_store(tmp_path / "empty", SHAPE)
    assert repository.create(store).manifest.id.startswith("-0000000000000000001-")
    store.close()
    repository.restore(3, tmp_path / "back", SHAPE)
    back = open_store(tmp_path / "back", SHAPE)
    assert back.state == State()
    back.close()


def test_an_older_one_can_be_restored(repository: SnapshotRepository, source: PartitionStore, tmp_path: Path) -> None:
    old = repository.create(source).manifest
    fill(source, range(20, 30))
    repository.create(source)
    assert repository.restore(3, tmp_path / "new", SHAPE).manifest.state.applied_offset == 29
    repository.restore(3, tmp_path / "old", SHAPE, snapshot=old.id, verify=False)
    back = open_store(tmp_path / "old", SHAPE)
    assert back.applied_offset == 19
    back.close()
    with pytest.raises(SnapshotError, match="has no snapshot 7 of partition 3: `lifeline snapshot list` shows"):
        repository.restore(3, tmp_path / "none", SHAPE, snapshot="7")


def test_nothing_is_overwritten(repository: SnapshotRepository, source: PartitionStore) -> None:
    repository.create(source)
    with pytest.raises(SnapshotError, match=r"is not empty, and a restore overwrites nothing: set it aside"):
        repository.restore(3, source.path, SHAPE)
    file = source.path.parent / "file"
    file.write_text("mine")
    with pytest.raises(SnapshotError, match="is not empty"):
        repository.restore(3, file, SHAPE)
    assert left_in(source.path.parent) == ["file", P]


def test_what_belongs_to_other_settings_is_not_restored(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    repository.create(source, topic="actions")
    with pytest.raises(RetentionPolicyError, match="max_explicit is 40 and the settings say 41"):
        repository.restore(3, tmp_path / "back", tiny(max_explicit=41))
    with pytest.raises(SnapshotError, match="is of topic actions, and the settings name others"):
        repository.restore(3, tmp_path / "back", SHAPE, topic="others")
    assert not (tmp_path / "back").exists()


# Refusals


def damage(repository: SnapshotRepository, path: str, change: Callable[[bytes], bytes]) -> None:
    data = remote(repository).read(path)
    assert data is not None
    remote(repository).write(path, change(data))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def refused_for(repository: SnapshotRepository, into: Path, *, verify: bool = False) -> str:
    before = left_in(into.parent)
    with pytest.raises(SnapshotRefusedError) as caught:
        repository.restore(3, into, SHAPE, verify=verify)
    assert str(caught.value).startswith(f"snapshot {caught.value.snapshot} of partition 3 is refused: ")
    assert "Restore another one" in str(caught.value)
    assert left_in(into.parent) == before
    return caught.value.reason


def test_a_missing_file_is_named(repository: SnapshotRepository, source: PartitionStore, tmp_path: Path) -> None:
    manifest = repository.create(source).manifest
    for file in manifest.files:
        path = f"{P}/files/{file.sha256}"
        data = remote(repository).read(path)
        assert data is not None
        remote(repository).remove(path)
        reason = f"1 of its {len(manifest.files)} files are missing, among them {file.name}"
        assert only(repository).problem == reason
        assert refused_for(repository, tmp_path / "back") == reason
        remote(repository).write(path, data)
    assert only(repository).problem is None


def test_a_cut_file_is_named(repository: SnapshotRepository, source: PartitionStore, tmp_path: Path) -> None:
    manifest = repository.create(source).manifest
    file = next(file for file in manifest.files if file.name.endswith(".sst"))
    damage(repository, f"{P}/files/{file.sha256}", lambda data: data[:-1])
    reason = f"{file.name} has {file.bytes - 1} bytes, and must have {file.bytes}"
    assert only(repository).problem == reason
    assert refused_for(repository, tmp_path / "back") == reason


def test_a_changed_byte_is_found_in_every_file(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    manifest = repository.create(source).manifest
    for file in manifest.files:
        if not file.bytes:
            continue
        damage(repository, f"{P}/files/{file.sha256}", flipped)
        reason = refused_for(repository, tmp_path / "back")
        assert reason.startswith(f"the content of {file.name} was changed or is damaged (SHA-256 ")
        damage(repository, f"{P}/files/{file.sha256}", flipped)
    repository.restore(3, tmp_path / "back", SHAPE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flipped, "its manifest "),
        (lambda data: data[: len(data) // 2], "its manifest is not JSON"),
        (lambda _: b"", "its manifest is not JSON"),
        (lambda data: data.replace(b'"applied_offset": 19', b'"applied_offset": 91'), "its manifest was changed"),
        (lambda data: data.replace(b".sst", b".SST", 1), "its manifest was changed"),
    ],
)
def test_a_changed_manifest_is_refused(
    repository: SnapshotRepository,
    source: PartitionStore,
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    reason: str,
) -> None:
    made = repository.create(source).manifest
    damage(repository, f"{P}/manifests/{made.id}.json", change)
    found = only(repository)
    assert (found.id, found.manifest) == (made.id, None)
    assert found.problem is not None
    assert found.problem.startswith(reason)
    assert refused_for(repository, tmp_path / "back") == found.problem


def test_a_renamed_manifest_is_refused(repository: SnapshotRepository, source: PartitionStore, tmp_path: Path) -> None:
    made = repository.create(source).manifest
    data = made.pack()
    for name in (made.id.replace("19-", "20-", 1), "zzz"):
        remote(repository).write(f"{P}/manifests/{name}.json", data)
        remote(repository).remove(f"{P}/manifests/{made.id}.json")
        assert only(repository).problem == f"its manifest is that of snapshot {made.id}, and was renamed"
        assert "was renamed" in refused_for(repository, tmp_path / "back")
        remote(repository).remove(f"{P}/manifests/{name}.json")


def test_a_manifest_of_another_partition_is_refused(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    made = repository.create(source).manifest
    remote(repository).write(f"partition-00005/manifests/{made.id}.json", made.pack())
    (found,) = repository.snapshots(5)
    assert found.problem == "its manifest is of partition 3"
    with pytest.raises(SnapshotRefusedError, match="of partition 5 is refused: its manifest is of partition 3"):
        repository.restore(5, tmp_path / "back", SHAPE)


def replace(repository: SnapshotRepository, old: Manifest, new: Manifest) -> None:
    remote(repository).remove(f"{P}/manifests/{old.id}.json")
    remote(repository).write(f"{P}/manifests/{new.id}.json", new.pack())


def test_a_manifest_that_is_right_in_itself_is_compared_with_the_store(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    made = repository.create(source).manifest
    for state in (
        made.state.model_copy(update={"applied_offset": 18}),
        made.state.model_copy(update={"fingerprint": "0" * 32}),
        made.state.model_copy(update={"events": 1}),
    ):
        forged = made.model_copy(update={"state": state})
        replace(repository, made, forged)
        assert refused_for(repository, tmp_path / "back").startswith("its store has ")
        replace(repository, forged, made)
    forged = made.model_copy(update={"contract": made.contract | {"max_impressions": 9}})
    replace(repository, made, forged)
    with pytest.raises(SnapshotRefusedError, match="its store has RetentionPolicy"):
        repository.restore(3, tmp_path / "back", tiny(max_explicit=40, max_impressions=9))
    # A snapshot that lacks a table: a store that does not open.
    files = tuple(file for file in made.files if not file.name.startswith("MANIFEST"))
    broken = made.model_copy(update={"files": files, "total_bytes": sum(file.bytes for file in files)})
    replace(repository, forged, broken)
    assert refused_for(repository, tmp_path / "back").startswith("its store cannot be read (")


def test_a_sum_that_was_wrong_at_the_source_is_found_by_counting(
    repository: SnapshotRepository, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "data", SHAPE)
    fill(store, range(20))
    right = store.state
    store.close()
    wrong = right._replace(fingerprint=right.fingerprint + 1)
    rewrite(tmp_path / "data", "meta", keys.STATE_KEY, wrong.pack())
    store = open_store(tmp_path / "data", SHAPE)
    repository.create(store)
    store.close()
    assert refused_for(repository, tmp_path / "back", verify=True).startswith(f"its events add up to {right.events} ")
    repository.restore(3, tmp_path / "back", SHAPE, verify=False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "its store does not decode ("), (b"broken", "its store cannot be read (a head has format 98")],
)
def test_a_record_that_does_not_decode_is_found_by_counting(
    repository: SnapshotRepository, tmp_path: Path, data: bytes, reason: str
) -> None:
    store = open_store(tmp_path / "data", SHAPE)
    store.apply(batch_of(work(4)), offset=4)
    store.close()
    head, _ = record(tmp_path / "data", "rows", b"")
    rewrite(tmp_path / "data", "rows", head, data)
    store = open_store(tmp_path / "data", SHAPE)
    repository.create(store)
    store.close()
    assert refused_for(repository, tmp_path / "back", verify=True).startswith(reason)


# Where


def test_the_settings_make_the_repository(tmp_path: Path, source: PartitionStore) -> None:
    with pytest.raises(SnapshotError, match="no URL for snapshots is configured"):
        SnapshotRepository.of(SnapshotSettings())
    repository = SnapshotRepository.of(SnapshotSettings(url=str(tmp_path / "snapshots"), keep=1))
    for offset in (20, 21):
        fill(source, [offset])
        repository.create(source)
    assert len(repository.snapshots()) == 1


def test_a_url_that_cannot_be_written_is_one_sentence(source: PartitionStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    repository = SnapshotRepository(f"file://{tmp_path}/file/below")
    with pytest.raises(SnapshotError, match=r"/file/below cannot be written \(.*check the address"):
        repository.create(source)
    assert left_in(source.path.parent) == [P]


def test_strange_files_at_the_url_are_let_be(repository: SnapshotRepository, source: PartitionStore) -> None:
    remote(repository).write("readme.txt", b"mine")
    remote(repository).write("partition-x/readme.txt", b"mine")
    remote(repository).write(f"{P}/manifests/readme.txt", b"mine")
    made = repository.create(source).manifest
    assert [one.id for one in repository.snapshots()] == [made.id]
    assert json.loads(remote(repository).read(f"{P}/manifests/{made.id}.json") or b"")["partition"] == 3
    assert remote(repository).read("readme.txt") == b"mine"
