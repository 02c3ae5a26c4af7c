"""A directory at an fsspec URL: the few things that snapshots need of it, and one error for whatever goes wrong.

Paths are relative to the URL. A write is atomic where the backend's own is (object stores) and on a local disk,
where it goes through a rename; elsewhere a write that was cut short leaves a file of the wrong size.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from lifeline.core.redaction import redact
from lifeline.store.errors import SnapshotError


class RemoteDirectory:
    """One URL. Every method raises SnapshotError when the backend fails."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        """Load the backend of the URL; nothing is connected yet."""
        self.url = redact(url)
        self._secrets = tuple(_texts(options))
        try:
            self._fs, root = url_to_fs(url, **options)
        except ImportError as error:
            raise SnapshotError(
                f"{self.url} needs a package that is not installed ({self._shown(error)}): install it beside this one"
            ) from error
        except Exception as error:
            raise SnapshotError(
                f"{self.url} cannot be used ({self._shown(error)}): name a URL that fsspec knows, as file:///path or "
                "s3://bucket/path, and the storage options of its library"
            ) from error
        self._root = root.rstrip("/")
        self._renames = isinstance(self._fs, LocalFileSystem)
        # The asynchronous backends are object stores: a directory made there may be a new bucket, after a typing error.
        self._has_directories = not self._fs.async_impl

    def files(self, path: str) -> dict[str, int]:
        """Return the bytes of each file in a directory, by name; nothing where there is no such directory."""
        return {_name(entry): int(entry["size"] or 0) for entry in self._entries(path) if entry["type"] == "file"}

    def directories(self) -> list[str]:
        """Return the names of the directories right under the URL."""
        return sorted(_name(entry) for entry in self._entries("") if entry["type"] == "directory")

    def read(self, path: str) -> bytes | None:
        """Return a small file's bytes, or None when there is no such file."""
        with self._reaching("read"):
            try:
                return bytes(self._fs.cat_file(self._at(path)))
            except FileNotFoundError:
                return None

    def write(self, path: str, data: bytes) -> None:
        """Write a small file."""
        with self._reaching("written"), self._target(path) as target:
            self._fs.pipe_file(target, data)

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file to the URL."""
        with self._reaching("written"), self._target(path) as target:
            self._fs.put_file(str(source), target)

    def download(self, path: str, target: Path) -> None:
        """Copy a file of the URL to the local disk."""
        with self._reaching("read, or its files cannot be written here"):
            self._fs.get_file(self._at(path), str(target))

    def remove(self, path: str) -> None:
        """Remove a file; it may be gone already."""
        with self._reaching("written"):
            try:
                self._fs.rm_file(self._at(path))
            except FileNotFoundError:
                # Another creator was quicker.
                return

    def _entries(self, path: str) -> list[dict[str, Any]]:
        with self._reaching("read"):
            # Others write there too: a listing that was kept would not say what is there now.
            self._fs.invalidate_cache()
            directory = self._at(path)
            try:
                entries: list[dict[str, Any]] = self._fs.ls(directory, detail=True)
            except FileNotFoundError:
                return []
            # An object store may list the directory itself.
            return [entry for entry in entries if entry["name"].strip("/") != directory.strip("/")]

    @contextmanager
    def _target(self, path: str) -> Iterator[str]:
        """Give the path to write to, whose file then appears at `path` in one go."""
        final = self._at(path)
        if self._has_directories:
            self._fs.makedirs(final.rpartition("/")[0], exist_ok=True)
        if not self._renames:
            yield final
            return
        part = f"{final}.part-{secrets.token_hex(4)}"
        try:
            yield part
            self._fs.mv(part, final)
        except BaseException:
            if self._fs.exists(part):
                self._fs.rm_file(part)
            raise

    def _shown(self, error: Exception) -> str:
        """Return what a library says, without what it shows of the URL and the storage options."""
        return redact(str(error), self._secrets)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root or "/"

    @contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise SnapshotError(
                f"{self.url} cannot be {what} ({type(error).__name__}: {self._shown(error)}): check the address, the "
                "storage options, the rights and the space there"
            ) from error


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def _texts(options: object) -> Iterator[str]:
    """Yield every text of the options but addresses: messages need these, and what is secret in them is masked."""
    if isinstance(options, Mapping):
        for value in options.values():
            yield from _texts(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _texts(value)
    elif isinstance(options, str) and "://" not in options:
        yield options
