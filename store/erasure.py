"""The scrub: it removes the bytes of erased users from the files.

An erasure deletes a user's records at once, but their bytes stay in the write-ahead log, in tables that are not
compacted yet, in the manifest (it has the boundary keys of tables) and in RocksDB's info log of compactions. A scrub

- flushes every family, so that RocksDB deletes the write-ahead log;
- compacts the user's key range, so that its tables are rewritten; the old ones are deleted once no view uses them;
- relies on a new manifest for each of these changes (rocksdb.py);
- overwrites the user's keys in RocksDB's info log.

The erasure key (keys.py, 'E') is written together with the erasure and removed last, so after a crash at any point the
scrub starts again.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import structlog
from rocksdict import Rdict

from lifeline.store import keys
from lifeline.store.errors import StoreError
from lifeline.store.rocksdb import compact_range, keys_between
from lifeline.store.statistics import files_in, number

# Present while erasure keys are being removed: their bytes, which name users, are still in the files.
_UNFINISHED = b"e"
_RETRY_S = 60.0
# RocksDB deletes an obsolete file with a short delay.
_DELETE_TIMEOUT_S = 10.0
_POLL_S = 0.01

_log = structlog.get_logger(__name__)


class Scrubber:
    """Removes the bytes of erased users from the files of one partition. Its thread runs only while it has work.

    `wait_for_views` must return when the views that are open at its call are closed: they use old tables.
    """

    def __init__(
        self, families: Mapping[str, Rdict], path: Path, partition: int, wait_for_views: Callable[[], None]
    ) -> None:
        self._families, self._meta, self._path = families, families["meta"], path
        self._partition, self._wait_for_views = partition, wait_for_views
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._requests = 0
        self._completed = 0
        if self._pending() or self._meta.get(_UNFINISHED) is not None:
            self.request()

    @property
    def busy(self) -> bool:
        """Whether bytes of erased users may still be in the files."""
        with self._changed:
            return self._completed < self._requests

    def request(self) -> None:
        """Start a scrub, after an erasure has been written."""
        with self._changed:
            self._requests += 1
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name=f"scrub-{self._partition}", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for the scrubs requested so far; returns whether they are done."""
        with self._changed:
            requests = self._requests
            return self._changed.wait_for(lambda: self._completed >= requests, timeout_s)

    def close(self) -> None:
        """Stop. An unfinished scrub starts again when the partition is opened."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            # Do not cancel a running compaction: RocksDB would report no error.
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                requests = self._requests
                if self._closing or self._completed == requests:
                    self._thread = None
                    return
            try:
                finished = self._scrub()
            except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception
                with self._changed:
                    if not self._closing:
                        _log.error(
                            "erased bytes are still in the files: check the disk; the scrub is retried",
                            partition=self._partition,
                            why=str(error),
                            again_in_s=_RETRY_S,
                        )
                        self._changed.wait_for(lambda: self._closing, _RETRY_S)
                continue
            if finished:
                with self._changed:
                    self._completed = requests
                    self._changed.notify_all()

    def _scrub(self) -> bool:
        """Remove the bytes of all pending erasures; returns False if `close` stopped it."""
        pending = self._pending()
        users = sorted({keys.erased_user(key) for key in pending})
        self._flush()
        old, errors = self._live_tables(), self._errors()
        for user_id in users:
            start = keys.user_prefix(user_id)
            for name in ("rows", "chunks"):
                if self._closing:
                    return False
                compact_range(self._families[name], start, keys.prefix_end(start))
        if self._errors() > errors:
            # compact_range reports no error.
            raise StoreError("a compaction failed: check the disk")
        # Wait for obsolete tables only: RocksDB does not rewrite a table that has no key of the range.
        self._wait_for_views()
        self._wait_until_gone(old - self._live_tables())
        _overwrite_logs(self._path, users)
        self._meta.put(_UNFINISHED, b"")
        for key in pending:
            self._meta.delete(key)
        self._flush()
        compact_range(self._meta)
        self._meta.delete(_UNFINISHED)
        return True

    def _pending(self) -> list[bytes]:
        """Return the erasure keys."""
        return keys_between(self._meta, keys.ERASURE_PREFIX, keys.prefix_end(keys.ERASURE_PREFIX))

    def _live_tables(self) -> set[Path]:
        """Return the tables of all families that the current state uses."""
        return {self._path / table["name"].lstrip("/") for table in self._meta.live_files()}

    def _errors(self) -> int:
        return number(self._meta, "background-errors")

    def _flush(self) -> None:
        # One round may not be enough: a family that was flushed first and then written to keeps the log.
        logs = [file for file, size in files_in(self._path) if file.suffix == ".log" and size]
        for family in self._families.values():
            family.flush()
        if any(log.exists() for log in logs):
            for family in self._families.values():
                family.flush()
        self._wait_until_gone(logs)

    def _wait_until_gone(self, files: Iterable[Path]) -> None:
        """Wait until RocksDB has deleted the files; raises StoreError after a timeout."""
        deadline = time.monotonic() + _DELETE_TIMEOUT_S
        for file in files:
            while file.exists():
                if self._closing or time.monotonic() > deadline:
                    raise StoreError(f"RocksDB has not deleted {file}: check the disk")
                time.sleep(_POLL_S)


def _overwrite_logs(path: Path, users: Iterable[bytes]) -> None:
    """Overwrite the users' keys in RocksDB's info log, which has the bounds of compactions in hexadecimal."""
    names = []
    for user_id in users:
        prefix = keys.user_prefix(user_id)
        names += [prefix.hex().upper() + "[0-9A-F]*", keys.prefix_end(prefix).hex().upper()]
    if not names:
        return
    quoted = re.compile(rf"(?<=')(?:{'|'.join(names)})(?=')".encode())
    for log in path.glob("LOG*"):
        with log.open("r+b") as file:
            for name in quoted.finditer(file.read()):
                file.seek(name.start())
                file.write(b"-" * len(name.group()))
