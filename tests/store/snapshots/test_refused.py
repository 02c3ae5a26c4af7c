"""Damaged and forged snapshots, which a restore refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lifeline.store import keys
from lifeline.store.errors import SnapshotRefusedError
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.manifest import Manifest
from lifeline.store.snapshots.repository import SnapshotRepository
from tests.support.disk import record, rewrite
from tests.support.factories import SHAPE, batch_of, open_store, tiny, work
from tests.support.snapshots import P, fill, names_in, only, remote


def damage(repository: SnapshotRepository, path: str, change: Callable[[bytes], bytes]) -> None:
    data = remote(repository).read(path)
    assert data is not None
    remote(repository).write(path, change(data))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def refused_for(repository: SnapshotRepository, into: Path, *, verify: bool = False) -> str:
    before = names_in(into.parent)
    with pytest.raises(SnapshotRefusedError) as caught:
        repository.restore(3, into, SHAPE, verify=verify)
    assert str(caught.value).startswith(f"snapshot {caught.value.snapshot} of partition 3 is refused: ")
    assert "Restore another one" in str(caught.value)
    assert names_in(into.parent) == before
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
    manifest = repository.create(source).manifest
    damage(repository, f"{P}/manifests/{manifest.id}.json", change)
    snapshot = only(repository)
    assert (snapshot.id, snapshot.manifest) == (manifest.id, None)
    assert snapshot.problem is not None
    assert snapshot.problem.startswith(reason)
    assert refused_for(repository, tmp_path / "back") == snapshot.problem


def test_a_renamed_manifest_is_refused(repository: SnapshotRepository, source: PartitionStore, tmp_path: Path) -> None:
    manifest = repository.create(source).manifest
    data = manifest.pack()
    for name in (manifest.id.replace("19-", "20-", 1), "zzz"):
        remote(repository).write(f"{P}/manifests/{name}.json", data)
        remote(repository).remove(f"{P}/manifests/{manifest.id}.json")
        assert only(repository).problem == f"its manifest is that of snapshot {manifest.id}, and was renamed"
        assert "was renamed" in refused_for(repository, tmp_path / "back")
        remote(repository).remove(f"{P}/manifests/{name}.json")


def test_a_manifest_of_another_partition_is_refused(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    manifest = repository.create(source).manifest
    remote(repository).write(f"partition-00005/manifests/{manifest.id}.json", manifest.pack())
    (snapshot,) = repository.snapshots(5)
    assert snapshot.problem == "its manifest is of partition 3"
    with pytest.raises(SnapshotRefusedError, match="of partition 5 is refused: its manifest is of partition 3"):
        repository.restore(5, tmp_path / "back", SHAPE)


def replace(repository: SnapshotRepository, old: Manifest, new: Manifest) -> None:
    remote(repository).remove(f"{P}/manifests/{old.id}.json")
    remote(repository).write(f"{P}/manifests/{new.id}.json", new.pack())


def test_a_manifest_that_is_right_in_itself_is_compared_with_the_store(
    repository: SnapshotRepository, source: PartitionStore, tmp_path: Path
) -> None:
    manifest = repository.create(source).manifest
    for state in (
        manifest.state.model_copy(update={"applied_offset": 18}),
        manifest.state.model_copy(update={"fingerprint": "0" * 32}),
        manifest.state.model_copy(update={"events": 1}),
    ):
        forged = manifest.model_copy(update={"state": state})
        replace(repository, manifest, forged)
        assert refused_for(repository, tmp_path / "back").startswith("its store has ")
        replace(repository, forged, manifest)
    forged = manifest.model_copy(update={"contract": manifest.contract | {"max_impressions": 9}})
    replace(repository, manifest, forged)
    with pytest.raises(SnapshotRefusedError, match="its store has RetentionPolicy"):
        repository.restore(3, tmp_path / "back", tiny(max_explicit=40, max_impressions=9))
    # A snapshot that lacks a table: a store that does not open.
    files = tuple(file for file in manifest.files if not file.name.startswith("MANIFEST"))
    broken = manifest.model_copy(update={"files": files, "total_bytes": sum(file.bytes for file in files)})
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
