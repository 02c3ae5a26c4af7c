"""A directory at an fsspec URL: the operations that snapshots need, with SnapshotError for all failures.

Paths are relative to the URL. Writes are atomic on object stores, and on a local disk, where a rename completes them.
On other backends an interrupted write leaves a file of the wrong size.
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
    """A directory at a URL. Every method raises SnapshotError if the backend fails."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        """Load the backend of the URL; does not connect."""
        self.url = redact(url)
        self._secrets = tuple(_texts(options))
        try:
            self._fs, root = url_to_fs(url, **options)
        except ImportError as error:
            raise SnapshotError(
                f"{self.url} needs a package that is not installed ({self._redact(error)}): install it beside this one"
            ) from error
        except Exception as error:
            raise SnapshotError(
                f"{self.url} cannot be used ({self._redact(error)}): name a URL that fsspec supports, such as "
                "file:///path or s3://bucket/path, and the storage options of its library"
            ) from error
        self._root = root.rstrip("/")
        self._renames = isinstance(self._fs, LocalFileSystem)
        # Asynchronous backends are object stores: makedirs with a mistyped name could create a bucket.
        self._has_directories = not self._fs.async_impl

    def files(self, path: str) -> dict[str, int]:
        """Return the sizes of the files in a directory, by name; empty if there is no such directory."""
        return {_name(entry): int(entry["size"] or 0) for entry in self._entries(path) if entry["type"] == "file"}

    def directories(self) -> list[str]:
        """Return the names of the directories directly under the URL."""
        return sorted(_name(entry) for entry in self._entries("") if entry["type"] == "directory")

    def read(self, path: str) -> bytes | None:
        """Return a small file's bytes, or None if there is no such file."""
        with self._translate_errors("read"):
            try:
                return bytes(self._fs.cat_file(self._at(path)))
            except FileNotFoundError:
                return None

    def write(self, path: str, data: bytes) -> None:
        """Write a small file."""
        with self._translate_errors("written"), self._target(path) as target:
            self._fs.pipe_file(target, data)

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file to the URL."""
        with self._translate_errors("written"), self._target(path) as target:
            self._fs.put_file(str(source), target)

    def download(self, path: str, target: Path) -> None:
        """Copy a file of the URL to the local disk."""
        with self._translate_errors("read, or its files cannot be written here"):
            self._fs.get_file(self._at(path), str(target))

    def remove(self, path: str) -> None:
        """Remove a file if it exists."""
        with self._translate_errors("written"):
            try:
                self._fs.rm_file(self._at(path))
            except FileNotFoundError:
                # Another process has removed it.
                return

    def _entries(self, path: str) -> list[dict[str, Any]]:
        with self._translate_errors("read"):
            # Other processes write there too: do not use a cached listing.
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
        """Yield the path to write to; afterwards the file appears at `path`, atomically on a local disk."""
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

    def _redact(self, error: Exception) -> str:
        """Return the message of a library's error, with secrets of the URL and the storage options masked."""
        return redact(str(error), self._secrets)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root or "/"

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise SnapshotError(
                f"{self.url} cannot be {what} ({type(error).__name__}: {self._redact(error)}): check the address, "
                "the storage options, the permissions and the free space there"
            ) from error


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def _texts(options: object) -> Iterator[str]:
    """Yield every string of the options except URLs: messages need those, and `redacted` masks their passwords."""
    if isinstance(options, Mapping):
        for value in options.values():
            yield from _texts(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _texts(value)
    elif isinstance(options, str) and "://" not in options:
        yield options
