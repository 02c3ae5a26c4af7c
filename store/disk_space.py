"""Full disks: which failed writes RocksDB gets over without being opened again.

A write that finds no space leaves the database as it was. RocksDB then takes no writes, and looks for free space every
five seconds: once there is room for a write buffer, it flushes, starts a new log, and takes writes again.
"""

import shutil
import time
from pathlib import Path

NO_SPACE = "No space left on device"
"""Part of RocksDB's error of a full disk."""
_ROOM_BYTES = 64 << 20
"""Far more free space than RocksDB waits for."""
_RECOVERY_S = 30.0


class DiskSpace:
    """Judges the failed writes of one database."""

    def __init__(self, path: Path) -> None:
        self.is_short = False
        """Whether the last write found no space."""
        self._path = path
        self._has_room_since: float | None = None

    def may_return(self, error: Exception) -> bool:
        """Return whether a write failed for lack of space, and RocksDB may take writes again."""
        self.is_short = NO_SPACE in str(error)
        if not self.is_short:
            return False
        now = time.monotonic()
        if shutil.disk_usage(self._path).free < _ROOM_BYTES:
            self._has_room_since = None
            return True
        if self._has_room_since is None:
            self._has_room_since = now
        # If RocksDB still takes no writes after this time, it never will.
        return now - self._has_room_since < _RECOVERY_S

    def on_write(self) -> None:
        """Note a write that succeeded."""
        self.is_short, self._has_room_since = False, None
