"""A whole list out of a real redis-server, by LRANGE: what a read over gRPC is compared with.

`python -m benchmarks.peers.redis_read DIRECTORY EVENTS` runs in the peers' environment and prints the median in
milliseconds; both ends are on one machine, over a unix socket.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peers import NOT_MEASURED, PYTHON, ROOT

_READS = 200


def measure(events: int, notes: list[str]) -> dict[str, float]:
    """Return the median by name; nothing, and a note, where the peers are not installed."""
    if not PYTHON.is_file():
        notes.append(NOT_MEASURED)
        return {}
    with tempfile.TemporaryDirectory(prefix="lifeline-peers-") as directory:
        command = [str(PYTHON.absolute()), "-m", "benchmarks.peers.redis_read", f"{directory}/redis", str(events)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        notes.append(f"redis was not measured: {done.stderr.strip()[-300:]}")
        return {}
    return {"redis LRANGE ms": float(done.stdout.split()[-1])}


def main(directory: Path, events: int) -> None:
    """Fill a list, and read it."""
    from benchmarks.peers.peer import EVENT  # noqa: PLC0415 - the peers' environment alone has what they need
    from benchmarks.peers.redis_list import RedisList  # noqa: PLC0415

    rng = np.random.default_rng(0)
    rows = np.zeros(events, EVENT)
    rows["timestamp_ms"] = np.arange(events)
    rows["item_id"] = rng.integers(0, 1 << 63, events)
    redis = RedisList(directory)
    try:
        redis.extend("user", rows)
        times = []
        for _ in range(_READS):
            begun = time.perf_counter()
            redis.read("user")
            times.append((time.perf_counter() - begun) * 1_000)
    finally:
        redis.close()
    sys.stdout.write(f"{np.median(times)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
