"""Snapshots: copies of a partition at a URL, made while it is written to, and restored only when they are whole.

Under the URL::

    partition-00003/files/<sha256>        contents, each uploaded once however many snapshots have it
    partition-00003/manifests/<id>.json   one a snapshot, written last (manifest.py)
    partition-00003/uploads/<time>-<n>    one for each creator at work, gone when it ends

A creator that dies leaves contents without a manifest, which the next one uses or removes. Several may be at work
on one partition, as when it has just moved to another node: each announces itself in `uploads` before it looks what
is there, nobody removes contents while another is announced, and each looks once more when its manifest is written.
A creator that died counts as at work for a day. What is left is a creator that begins and ends while another one is
between looking and removing: its snapshot may then lack contents. Such a snapshot is refused by `snapshots` and
`restore`, as any that is not whole; it is never restored in part.
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
from lifeline.store.snapshots.files import RESTORING, SNAPSHOT, aside, check_free, files_of, sha256_of
from lifeline.store.snapshots.manifest import Manifest, ManifestError, SnapshotState, age_of
from lifeline.store.snapshots.remote import RemoteDirectory
from lifeline.store.snapshots.settings import SnapshotSettings
from lifeline.store.state import State

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes of all files, after each file."""

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
    """What it is; None when its manifest cannot be trusted."""
    refused: str | None
    """Why it would not be restored; None when it has every file. Contents are read by `restore` alone."""


class CreatedSnapshot(NamedTuple):
    """What `create` did."""

    manifest: Manifest
    uploaded_files: int
    """Files that the URL did not have yet."""
    uploaded_bytes: int
    seconds: float


class RestoredSnapshot(NamedTuple):
    """What `restore` did."""

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
            raise SnapshotError("no place for snapshots is set: give snapshot.url (--url, LIFELINE_SNAPSHOT__URL)")
        return cls(settings.url, options=settings.options(), keep=settings.keep)

    @property
    def url(self) -> str:
        """The URL as it may be shown."""
        return self._remote.url

    def create(
        self, store: PartitionStore, *, topic: str | None = None, progress: Progress = lambda _done, _total: None
    ) -> CreatedSnapshot:
        """Make a snapshot of a store, which goes on applying, and remove what is older than those that stay.

        Only contents that the URL lacks are uploaded. `topic` is the topic that the store follows. It waits up to a
        minute for the bytes of erased users to go first. What `progress` raises ends it, and leaves no snapshot.
        """
        started = time.monotonic()
        store.wait_scrubbed(_SCRUB_S)
        with aside(store.path, SNAPSHOT) as place:
            state = _checkpoint(store, place)
            manifest = Manifest.of(store.partition, topic, _contract(store), state, files_of(place))
            with self._announced(store.partition) as mine:
                uploaded = self._upload(manifest, place, progress)
                path = f"{_directory(store.partition)}/manifests/{manifest.id}{_SUFFIX}"
                self._remote.write(path, manifest.pack())
                doubt = _doubt(manifest, store.partition, manifest.id, self._contents(store.partition))
                if doubt is not None:
                    self._remote.remove(path)
                    raise SnapshotError(
                        f"the snapshot of partition {store.partition} is not whole ({doubt}): another node may have "
                        "removed what it needs; make it again"
                    )
                self._retain(store.partition, manifest.id, mine)
        return CreatedSnapshot(manifest, len(uploaded), sum(uploaded), time.monotonic() - started)

    def snapshots(self, partition: int | None = None) -> list[Snapshot]:
        """Return what is at the URL: partitions ascending, of each the newest snapshot first."""
        numbers = self.partitions() if partition is None else [partition]
        return [snapshot for number in numbers for snapshot in self._load(number, self._contents(number))]

    def partitions(self) -> list[int]:
        """Return the partitions that have a directory at the URL, ascending."""
        found = (_PARTITION.fullmatch(name) for name in self._remote.directories())
        return sorted(int(match[1]) for match in found if match)

    def restore(
        self,
        partition: int,
        into: Path,
        settings: StoreSettings,
        *,
        snapshot: str | None = None,
        topic: str | None = None,
        verify: bool = True,
        progress: Progress = lambda _done, _total: None,
    ) -> RestoredSnapshot:
        """Put a snapshot, the newest one without an id, into the directory `into`, which must be empty or not exist.

        Every file's content is checked, and the state that the store has; with `verify` all events are added up
        anew, too. Nothing is left in `into` unless all of it is right. Raises SnapshotRefusedError with the reason,
        and ContractError when the snapshot was made with other caps or ages than `settings`.
        """
        started = time.monotonic()
        manifest = self._chosen(partition, snapshot)
        RetentionPolicy(**manifest.contract).check(RetentionPolicy.of(settings))
        if topic is not None and manifest.topic is not None and topic != manifest.topic:
            raise SnapshotError(
                f"snapshot {manifest.id} of partition {partition} is of topic {manifest.topic}, and the settings name "
                f"{topic}: set kafka.actions_topic to its topic, or name the URL of this topic's snapshots"
            )
        with aside(into, RESTORING) as place:
            check_free(into)
            place.mkdir()
            self._download(manifest, place, progress)
            _check_store(manifest, place, settings, verify=verify)
            sync_tree(place)
            place.rename(into)
        return RestoredSnapshot(manifest, into, time.monotonic() - started)

    # Contents

    def _contents(self, partition: int) -> dict[str, int]:
        return self._remote.files(f"{_directory(partition)}/files")

    def _upload(self, manifest: Manifest, place: Path, progress: Progress) -> list[int]:
        """Upload what is missing or has another size; returns the bytes of each."""
        there = self._contents(manifest.partition)
        uploaded: list[int] = []
        done = 0
        for file in manifest.files:
            if there.get(file.sha256) != file.bytes:
                self._remote.upload(place / file.name, f"{_directory(manifest.partition)}/files/{file.sha256}")
                there[file.sha256] = file.bytes
                uploaded.append(file.bytes)
            done += file.bytes
            progress(done, manifest.total_bytes)
        return uploaded

    def _download(self, manifest: Manifest, place: Path, progress: Progress) -> None:
        done = 0
        for file in manifest.files:
            target = place / file.name
            self._remote.download(f"{_directory(manifest.partition)}/files/{file.sha256}", target)
            if (found := sha256_of(target)) != file.sha256:
                raise SnapshotRefusedError(
                    manifest.partition,
                    manifest.id,
                    f"the content of {file.name} was changed or is damaged (SHA-256 {found}, and not {file.sha256})",
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
                loaded.append(Snapshot(partition, snapshot, manifest, _doubt(manifest, partition, snapshot, contents)))
        return sorted(loaded, key=lambda one: age_of(one.id) or (), reverse=True)

    def _chosen(self, partition: int, wanted: str | None) -> Manifest:
        found = self.snapshots(partition)
        if not found:
            raise SnapshotError(
                f"{self.url} has no snapshot of partition {partition}: make one with `lifeline snapshot create`, or "
                "name another URL"
            )
        chosen = next((one for one in found if wanted in (None, one.id)), None)
        if chosen is None:
            raise SnapshotError(
                f"{self.url} has no snapshot {wanted} of partition {partition}: `lifeline snapshot list` shows those "
                "that are there"
            )
        if chosen.manifest is None or chosen.refused is not None:
            raise SnapshotRefusedError(partition, chosen.id, chosen.refused or "")
        return chosen.manifest

    def _retain(self, partition: int, mine: str, announced: str) -> None:
        """Remove the manifests beyond those that stay, and then the contents that no manifest names."""
        # In this order: whoever ends between the second and the third look has a manifest by the third.
        contents = self._contents(partition)
        is_alone = not self._others(partition, announced)
        found = self._load(partition, contents)
        whole = [one for one in found if one.refused is None][: self._keep]
        oldest = age_of(whole[-1].id) if whole else None
        remaining = []
        for one in found:
            age = age_of(one.id)
            if oldest is not None and age is not None and age < oldest and one.id != mine:
                self._remote.remove(f"{_directory(partition)}/manifests/{one.id}{_SUFFIX}")
            else:
                remaining.append(one)
        named: set[str] = set()
        for one in remaining:
            if one.manifest is None:
                # Nobody knows what it needs; a newer version of the program may.
                return
            named.update(file.sha256 for file in one.manifest.files)
        if is_alone:
            for name in contents.keys() - named:
                self._remote.remove(f"{_directory(partition)}/files/{name}")

    # Creators at work

    @contextmanager
    def _announced(self, partition: int) -> Iterator[str]:
        mine = f"{datetime.now(UTC).strftime(_TIME)}-{secrets.token_hex(8)}"
        path = f"{_directory(partition)}/uploads/{mine}"
        self._remote.write(path, b"")
        try:
            yield mine
        finally:
            self._remote.remove(path)

    def _others(self, partition: int, mine: str) -> list[str]:
        """Return who else is at work; removes what is left of those that died."""
        newest_dead = (datetime.now(UTC) - _UPLOAD_AGE).strftime(_TIME)
        directory = f"{_directory(partition)}/uploads"
        others = [name for name in self._remote.files(directory) if name != mine]
        for name in others:
            if name < newest_dead:
                self._remote.remove(f"{directory}/{name}")
        return [name for name in others if name >= newest_dead]


def _directory(partition: int) -> str:
    return f"partition-{partition:05d}"


def _contract(store: PartitionStore) -> RetentionPolicy:
    if store.contract is None:
        raise AssertionError("a store that is open to write has a contract")
    return store.contract


def _checkpoint(store: PartitionStore, into: Path) -> State:
    try:
        return store.checkpoint(into)
    except StoreError:
        raise
    except DbClosedError as error:
        raise NotOwnerError(store.partition) from error
    except Exception as error:  # rocksdict raises bare Exception
        raise SnapshotError(
            f"partition {store.partition} cannot be copied aside ({error}): check the disk of {store.path}"
        ) from error


def _doubt(manifest: Manifest, partition: int, snapshot: str, contents: Mapping[str, int]) -> str | None:
    """Return why a snapshot is not whole, without reading its contents; None when it is."""
    if manifest.partition != partition:
        return f"its manifest is of partition {manifest.partition}"
    if manifest.id != snapshot:
        return f"its manifest is that of snapshot {manifest.id}, and was renamed"
    missing = [file.name for file in manifest.files if file.sha256 not in contents]
    if missing:
        return f"{len(missing)} of its {len(manifest.files)} files are missing, {missing[0]} among them"
    for file in manifest.files:
        if contents[file.sha256] != file.bytes:
            return f"{file.name} has {contents[file.sha256]} bytes, and must have {file.bytes}"
    return None


def _check_store(manifest: Manifest, place: Path, settings: StoreSettings, *, verify: bool) -> None:
    """Open a downloaded store and compare it with its manifest; raises SnapshotRefusedError."""

    def refused(reason: str) -> SnapshotRefusedError:
        return SnapshotRefusedError(manifest.partition, manifest.id, reason)

    try:
        store = SecondaryPartition.open(place, partition=manifest.partition, memory=SharedMemory(settings))
        try:
            state, contract = SnapshotState.of(store.state), store.contract
            counted = recount(store) if verify else None
        finally:
            store.close()
    except CorruptRecordError as error:
        raise refused(f"its store does not decode ({error.what})") from error
    except StoreError as error:
        raise refused(f"its store cannot be read ({error})") from error
    if state != manifest.state:
        raise refused(f"its store has {state}, and its manifest says {manifest.state}")
    if contract is not None and contract._asdict() != manifest.contract:
        raise refused(f"its store has {contract}, and its manifest says {manifest.contract}")
    if counted is not None and (counted.events, as_text(counted.fingerprint)) != (state.events, state.fingerprint):
        raise refused(
            f"its events add up to {counted.events} with fingerprint {as_text(counted.fingerprint)}, and its manifest "
            f"says {manifest.state}"
        )
