"""Erasure of bytes: what an erased user leaves in the files, and how it goes.

An erasure removes a user's records at once, but their bytes stay in the write-ahead log, in tables that are
not compacted yet, in the manifest (it keeps the boundary keys of tables) and in RocksDB's own log of
compactions. A scrub removes them: every family is flushed, so that the write-ahead log goes; the user's range is
compacted, so that its tables are written anew, and the old ones go once no view holds them; the manifest is
written anew each time (rocksdb.py); and RocksDB's log is overwritten where it names the range.

The key that remembers the user (keys.py, 'E') is written with the erasure itself and goes last, so a crash at any
point only leaves the scrub still to be done.
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

# While the keys that name users are being removed, this one says that the files still hold them.
_UNFINISHED = b"e"
_RETRY_S = 60.0
# RocksDB deletes a file a moment after it has no more use for it.
_GONE_WITHIN_S = 10.0
_LOOK_S = 0.01

_log = structlog.get_logger(__name__)


class Scrubber:
    """Removes the bytes of erased users from the files of one partition, in a thread that lives while it has work.

    `wait_for_views` returns when the views that are open now are closed: they keep the tables of their moment.
    """

    def __init__(
        self, families: Mapping[str, Rdict], path: Path, partition: int, wait_for_views: Callable[[], None]
    ) -> None:
        self._families, self._meta, self._path = families, families["meta"], path
        self._partition, self._wait_for_views = partition, wait_for_views
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._asked = 0
        self._done = 0
        if self._pending() or self._meta.get(_UNFINISHED) is not None:
            self.request()

    @property
    def busy(self) -> bool:
        """Whether bytes of erased users may still be in the files."""
        with self._changed:
            return self._done < self._asked

    def request(self) -> None:
        """Scrub soon: an erasure has been written."""
        with self._changed:
            self._asked += 1
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name=f"scrub-{self._partition}", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Return whether all that was asked for so far is done within `timeout_s` seconds."""
        with self._changed:
            asked = self._asked
            return self._changed.wait_for(lambda: self._done >= asked, timeout_s)

    def close(self) -> None:
        """Stop; what is not finished is done when the partition opens again."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            # A compaction under way is waited for: one that is cancelled does not say so.
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                asked = self._asked
                if self._closing or self._done == asked:
                    self._thread = None
                    return
            try:
                finished = self._scrub()
            except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception
                with self._changed:
                    if not self._closing:
                        _log.error(
                            "erased bytes are still in the files: see to the disk; it is tried again",
                            partition=self._partition,
                            why=str(error),
                            again_in_s=_RETRY_S,
                        )
                        self._changed.wait_for(lambda: self._closing, _RETRY_S)
                continue
            if finished:
                with self._changed:
                    self._done = asked
                    self._changed.notify_all()

    def _scrub(self) -> bool:
        """Remove what is pending; returns False when it was told to stop before the end."""
        pending = self._pending()
        users = sorted({keys.erased_user(key) for key in pending})
        self._flush()
        old, errors = self._live_tables(), self._errors()
        for user_id in users:
            start = keys.user_prefix(user_id)
            for name in ("rows", "chunks"):
                if self._closing:
                    return False
                compact_range(self._families[name], start, keys.after(start))
        if self._errors() > errors:
            # A compaction that fails does not say so.
            raise StoreError("a compaction failed: check the disk")
        # Views keep the tables of their moment; a table in which RocksDB finds no key of the range is left as it is.
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
        return keys_between(self._meta, keys.ERASURE_PREFIX, keys.after(keys.ERASURE_PREFIX))

    def _live_tables(self) -> set[Path]:
        """Return the tables of all families that are part of the state of now."""
        return {self._path / table["name"].lstrip("/") for table in self._meta.live_files()}

    def _errors(self) -> int:
        return number(self._meta, "background-errors")

    def _flush(self) -> None:
        # A family that has nothing to flush, and is written to before the last one is flushed, keeps the log.
        logs = [file for file, size in files_in(self._path) if file.suffix == ".log" and size]
        for family in self._families.values():
            family.flush()
        if any(log.exists() for log in logs):
            for family in self._families.values():
                family.flush()
        self._wait_until_gone(logs)

    def _wait_until_gone(self, files: Iterable[Path]) -> None:
        """Return when RocksDB has deleted the files; raises StoreError when it does not."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        for file in files:
            while file.exists():
                if self._closing or time.monotonic() > deadline:
                    raise StoreError(f"{file} is still there: check the disk")
                time.sleep(_LOOK_S)


def _overwrite_logs(path: Path, users: Iterable[bytes]) -> None:
    """Overwrite the keys of users in RocksDB's log, which writes the bounds of a compaction in hexadecimal."""
    names = []
    for user_id in users:
        prefix = keys.user_prefix(user_id)
        names += [prefix.hex().upper() + "[0-9A-F]*", keys.after(prefix).hex().upper()]
    if not names:
        return
    quoted = re.compile(rf"(?<=')(?:{'|'.join(names)})(?=')".encode())
    for log in path.glob("LOG*"):
        with log.open("r+b") as file:
            for name in quoted.finditer(file.read()):
                file.seek(name.start())
                file.write(b"-" * len(name.group()))
