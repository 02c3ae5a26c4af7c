"""A guard over a child process: when this process dies, however it dies, the child goes too."""

import subprocess

# It reads from a pipe that this process holds: the end of file without a line is our death.
_SCRIPT = 'read -r _ || kill -9 "$1" 2>/dev/null'


class Watchdog:
    """Watches one child by its pid until `release`."""

    def __init__(self, pid: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
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
