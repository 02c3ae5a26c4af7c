"""A watchdog for a child process: it kills the child when this process dies, for whatever reason."""

import subprocess

# It reads a pipe that this process holds open: end of file without a line means that this process has died.
_SCRIPT = 'read -r _ || kill -9 "$1" 2>/dev/null'


class Watchdog:
    """Watches one child by its pid until `release`."""

    def __init__(self, pid: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - a fixed command
            ["/bin/sh", "-c", _SCRIPT, "guard", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """Stop watching: the child has ended. Idempotent."""
        if self._process.poll() is None:
            self._process.communicate(b"\n")
