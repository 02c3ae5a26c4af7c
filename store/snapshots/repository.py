"""Snapshots: copies of a partition at a URL. They are created beside the writer, and restored only if complete.

Under the URL::

    partition-00003/files/<sha256>        contents, each uploaded once, however many snapshots share it
    partition-00003/manifests/<id>.json   one for each snapshot, written last (manifest.py)
    partition-00003/uploads/<time>-<n>    one for each running creator, removed at its end

A creator that crashes leaves contents without a manifest; the next creator uses or removes them. Several creators may
run for one partition, for example just after it moved to another node. Each writes its marker in `uploads` before it
lists the contents. None removes contents while another marker exists, and each checks the contents again after it has
written its manifest. The marker of a crashed creator is valid for a day. One race remains: if a creator starts and ends
between another one's check and its removal, the first one's snapshot may lack contents. Such a snapshot is rejected by
`snapshots` and `restore`, like any incomplete one, and never restored in part.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

from rocksdict import DbClosedError

from lifeline.core.atomic_files import sync_tree
from lifeline.store.errors import CorruptRecordError, NotOwnerError, SnapshotError, SnapshotRefusedError, StoreError
from lifeline.store.fingerprint import as_text
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.recount import recount
from lifeline.store.retention import RetentionPolicy
from lifeline.store.secondary_partition import SecondaryPartition
from lifeline.store.settings import StoreSettings
from lifeline.store.snapshots.files import RESTORING, SNAPSHOT, check_restore_target, files_of, sha256_of, staging_path
from lifeline.store.snapshots.manifest import Manifest, ManifestError, SnapshotState, age_of
from lifeline.store.snapshots.remote import RemoteDirectory
from lifeline.store.snapshots.settings import SnapshotSettings
from lifeline.store.state import State

Progress = Callable[[int, int], None]
"""Called after each file with the bytes that are done and the bytes of all files."""

_PARTITION = re.compile(r"partition-(\d{5,})")
_SUFFIX = ".json"
_TIME = "%Y%m%dT%H%M%S"
_UPLOAD_AGE = timedelta(days=1)
_SCRUB_S = 60.0


class Snapshot(NamedTuple):
    """One snapshot at the URL."""

    partition: int
    id: str
    manifest: Manifest | None
    """None if it is damaged or invalid."""
    problem: str | None
    """Why `restore` would reject it; None if all its files exist. Only `restore` checks their contents."""


class CreatedSnapshot(NamedTuple):
    """The result of `create`."""

    manifest: Manifest
    uploaded_files: int
    """Files that the URL did not have yet."""
    uploaded_bytes: int
    seconds: float


class RestoredSnapshot(NamedTuple):
    """The result of `restore`."""

    manifest: Manifest
    path: Path
    """The partition's directory."""
    seconds: float


class SnapshotRepository:
    """The snapshots at one URL.

    Every method may be called from any thread and on any machine, with the guarantee that the module names, and
    raises SnapshotError.
    """

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, keep: int = 3) -> None:
        """`options` go to the library behind the URL; `keep` snapshots of each partition stay."""
        self._remote, self._keep = RemoteDirectory(url, options or {}), keep

    @classmethod
    def of(cls, settings: SnapshotSettings) -> Self:
        """Return the repository that the settings name."""
        if settings.url is None:
            raise SnapshotError("no URL for snapshots is configured: set snapshot.url (--url, LIFELINE_SNAPSHOT__URL)")
        return cls(settings.url, options=settings.options(), keep=settings.keep)

    @property
    def url(self) -> str:
        """The URL, with secrets masked."""
        return self._remote.url

    def create(
        self,
        store: PartitionStore,
        *,
        topic: str | None = None,
        topic_id: str = "",
        progress: Progress = lambda _done, _total: None,
    ) -> CreatedSnapshot:
        """Create a snapshot of a store, and remove snapshots beyond `keep`. The store may be written meanwhile.

        Only contents that the URL lacks are uploaded. `topic` and `topic_id` are those of the store. First it waits up
        to a minute for the scrub of erased users. If `progress` raises, no snapshot is created.
        """
        started = time.monotonic()
        store.wait_scrubbed(_SCRUB_S)
        with staging_path(store.path, SNAPSHOT) as directory:
            state = _checkpoint(store, directory)
            manifest = Manifest.of(store.partition, topic, topic_id, _policy(store), state, files_of(directory))
            with self._upload_marker(store.partition) as marker:
                uploaded = self._upload(manifest, directory, progress)
                path = f"{_directory(store.partition)}/manifests/{manifest.id}{_SUFFIX}"
                self._remote.write(path, manifest.pack())
                problem = _problem(manifest, store.partition, manifest.id, self._contents(store.partition))
                if problem is not None:
                    self._remote.remove(path)
                    raise SnapshotError(
                        f"the snapshot of partition {store.partition} is incomplete ({problem}): another node may have "
                        "removed files that it needs; create it again"
                    )
                self._retain(manifest, marker)
        return CreatedSnapshot(manifest, len(uploaded), sum(uploaded), time.monotonic() - started)

    def snapshots(self, partition: int | None = None) -> list[Snapshot]:
        """Return the snapshots at the URL, by partition, the newest of each first."""
        numbers = self.partitions() if partition is None else [partition]
        return [snapshot for number in numbers for snapshot in self._load(number, self._contents(number))]

    def partitions(self) -> list[int]:
        """Return the partitions that have a directory at the URL, ascending."""
        matches = (_PARTITION.fullmatch(name) for name in self._remote.directories())
        return sorted(int(match[1]) for match in matches if match)

    def restore(
        self,
        partition: int,
        into: Path,
        settings: StoreSettings,
        *,
        snapshot: str | None = None,
        topic: str | None = None,
        topic_id: str = "",
        verify: bool = True,
        progress: Progress = lambda _done, _total: None,
    ) -> RestoredSnapshot:
        """Restore a snapshot, by default the newest, into the directory `into`, which must be empty or not exist.

        It checks the content of every file and the state of the store; with `verify` it also recounts all events. If a
        check fails, `into` stays empty. Raises SnapshotRefusedError with the reason, also when `topic` had another id
        then than `topic_id`, and RetentionPolicyError if the snapshot was created with other caps or ages.
        """
        started = time.monotonic()
        manifest = self._select(partition, snapshot)
        RetentionPolicy(**manifest.contract).check(RetentionPolicy.of(settings))
        if topic is not None and manifest.topic is not None and topic != manifest.topic:
            raise SnapshotError(
                f"snapshot {manifest.id} of partition {partition} is of topic {manifest.topic}, and the settings name "
                f"{topic}: set kafka.actions_topic to the snapshot's topic, or name the URL of this topic's snapshots"
            )
        if topic_id and manifest.topic_id and topic_id != manifest.topic_id:
            raise SnapshotRefusedError(
                partition,
                manifest.id,
                f"it is of an earlier topic {manifest.topic} with the id {manifest.topic_id}, and the topic was "
                f"created again with the id {topic_id}",
            )
        with staging_path(into, RESTORING) as directory:
            check_restore_target(into)
            directory.mkdir()
            self._download(manifest, directory, progress)
            _check_store(manifest, directory, settings, verify=verify)
            sync_tree(directory)
            directory.rename(into)
        return RestoredSnapshot(manifest, into, time.monotonic() - started)

    # Contents

    def _contents(self, partition: int) -> dict[str, int]:
        return self._remote.files(f"{_directory(partition)}/files")

    def _upload(self, manifest: Manifest, directory: Path, progress: Progress) -> list[int]:
        """Upload the contents that are missing or have another size; returns the bytes of each."""
        contents = self._contents(manifest.partition)
        uploaded: list[int] = []
        done = 0
        for file in manifest.files:
            if contents.get(file.sha256) != file.bytes:
                self._remote.upload(directory / file.name, f"{_directory(manifest.partition)}/files/{file.sha256}")
                contents[file.sha256] = file.bytes
                uploaded.append(file.bytes)
            done += file.bytes
            progress(done, manifest.total_bytes)
        return uploaded

    def _download(self, manifest: Manifest, directory: Path, progress: Progress) -> None:
        done = 0
        for file in manifest.files:
            target = directory / file.name
            self._remote.download(f"{_directory(manifest.partition)}/files/{file.sha256}", target)
            if (sha256 := sha256_of(target)) != file.sha256:
                raise SnapshotRefusedError(
                    manifest.partition,
                    manifest.id,
                    f"the content of {file.name} was changed or is damaged (SHA-256 {sha256} instead of {file.sha256})",
                )
            done += file.bytes
            progress(done, manifest.total_bytes)

    # Manifests

    def _load(self, partition: int, contents: Mapping[str, int]) -> list[Snapshot]:
        """Return the snapshots of a partition, newest first."""
        directory = f"{_directory(partition)}/manifests"
        loaded = []
        for name in self._remote.files(directory):
            data = self._remote.read(f"{directory}/{name}") if name.endswith(_SUFFIX) else None
            if data is None:
                continue
            snapshot = name.removesuffix(_SUFFIX)
            try:
                manifest = Manifest.unpack(data)
            except ManifestError as error:
                loaded.append(Snapshot(partition, snapshot, None, str(error)))
            else:
                problem = _problem(manifest, partition, snapshot, contents)
                loaded.append(Snapshot(partition, snapshot, manifest, problem))
        return sorted(loaded, key=lambda loaded_snapshot: age_of(loaded_snapshot.id) or (), reverse=True)

    def _select(self, partition: int, snapshot_id: str | None) -> Manifest:
        snapshots = self.snapshots(partition)
        if not snapshots:
            raise SnapshotError(
                f"{self.url} has no snapshot of partition {partition}: create one with `lifeline snapshot create`, or "
                "name another URL"
            )
        selected = next((snapshot for snapshot in snapshots if snapshot_id in (None, snapshot.id)), None)
        if selected is None:
            raise SnapshotError(
                f"{self.url} has no snapshot {snapshot_id} of partition {partition}: `lifeline snapshot list` shows "
                "the existing ones"
            )
        if selected.manifest is None or selected.problem is not None:
            raise SnapshotRefusedError(partition, selected.id, selected.problem or "")
        return selected.manifest

    def _retain(self, new: Manifest, marker: str) -> None:
        """Remove the oldest manifests of the topic beyond `keep`, then the contents that no manifest lists."""
        partition = new.partition
        # The order matters: a creator that ends between the listing of markers and of manifests has its manifest.
        contents = self._contents(partition)
        is_alone = not self._other_markers(partition, marker)
        snapshots = self._load(partition, contents)
        # Offsets of another topic of the same name say nothing of the age.
        others = {each.id for each in snapshots if each.manifest and each.manifest.topic_id != new.topic_id}
        complete = [each for each in snapshots if each.problem is None and each.id not in others][: self._keep]
        oldest = age_of(complete[-1].id) if complete else None
        remaining = []
        for snapshot in snapshots:
            age = age_of(snapshot.id)
            if oldest is not None and age is not None and age < oldest and snapshot.id not in {new.id, *others}:
                self._remote.remove(f"{_directory(partition)}/manifests/{snapshot.id}{_SUFFIX}")
            else:
                remaining.append(snapshot)
        listed: set[str] = set()
        for snapshot in remaining:
            if snapshot.manifest is None:
                # Its files are unknown, but a newer version of the program may read it: keep all contents.
                return
            listed.update(file.sha256 for file in snapshot.manifest.files)
        if is_alone:
            for name in contents.keys() - listed:
                self._remote.remove(f"{_directory(partition)}/files/{name}")

    # Markers of running creators

    @contextmanager
    def _upload_marker(self, partition: int) -> Iterator[str]:
        marker = f"{datetime.now(UTC).strftime(_TIME)}-{secrets.token_hex(8)}"
        path = f"{_directory(partition)}/uploads/{marker}"
        self._remote.write(path, b"")
        try:
            yield marker
        finally:
            self._remote.remove(path)

    def _other_markers(self, partition: int, marker: str) -> list[str]:
        """Return the markers of other running creators; removes those of crashed ones."""
        newest_dead = (datetime.now(UTC) - _UPLOAD_AGE).strftime(_TIME)
        directory = f"{_directory(partition)}/uploads"
        others = [name for name in self._remote.files(directory) if name != marker]
        for name in others:
            if name < newest_dead:
                self._remote.remove(f"{directory}/{name}")
        return [name for name in others if name >= newest_dead]


def _directory(partition: int) -> str:
    return f"partition-{partition:05d}"


def _policy(store: PartitionStore) -> RetentionPolicy:
    if store.policy is None:
        raise AssertionError("a store that is open for writing has a retention policy")
    return store.policy


def _checkpoint(store: PartitionStore, into: Path) -> State:
    try:
        return store.checkpoint(into)
    except StoreError:
        raise
    except DbClosedError as error:
        raise NotOwnerError(store.partition) from error
    except Exception as error:  # rocksdict raises bare Exception
        raise SnapshotError(
            f"partition {store.partition} cannot be copied ({error}): check the disk of {store.path}"
        ) from error


def _problem(manifest: Manifest, partition: int, snapshot: str, contents: Mapping[str, int]) -> str | None:
    """Return why a snapshot is incomplete, judged without reading its contents; None if it is complete."""
    if manifest.partition != partition:
        return f"its manifest is of partition {manifest.partition}"
    if manifest.id != snapshot:
        return f"its manifest is that of snapshot {manifest.id}, and was renamed"
    missing = [file.name for file in manifest.files if file.sha256 not in contents]
    if missing:
        return f"{len(missing)} of its {len(manifest.files)} files are missing, among them {missing[0]}"
    for file in manifest.files:
        if contents[file.sha256] != file.bytes:
            return f"{file.name} has {contents[file.sha256]} bytes, and must have {file.bytes}"
    return None


def _check_store(manifest: Manifest, directory: Path, settings: StoreSettings, *, verify: bool) -> None:
    """Open a downloaded store and compare it with its manifest; raises SnapshotRefusedError."""

    def refused(reason: str) -> SnapshotRefusedError:
        return SnapshotRefusedError(manifest.partition, manifest.id, reason)

    try:
        store = SecondaryPartition.open(directory, partition=manifest.partition, memory=SharedMemory(settings))
        try:
            state, policy = SnapshotState.of(store.state), store.policy
            counted = recount(store) if verify else None
        finally:
            store.close()
    except CorruptRecordError as error:
        raise refused(f"its store does not decode ({error.what})") from error
    except StoreError as error:
        raise refused(f"its store cannot be read ({error})") from error
    if state != manifest.state:
        raise refused(f"its store has {state}, and its manifest says {manifest.state}")
    if policy is not None and policy._asdict() != manifest.contract:
        raise refused(f"its store has {policy}, and its manifest says {manifest.contract}")
    if counted is not None and (counted.events, as_text(counted.fingerprint)) != (state.events, state.fingerprint):
        raise refused(
            f"its events add up to {counted.events} with fingerprint {as_text(counted.fingerprint)}, and its manifest "
            f"says {manifest.state}"
        )
