"""Measure every peer: the process that runs in the peers' environment.

`python -m benchmarks.peers.worker DIRECTORY` reads the history and the sizes from there, and writes the figures.
"""

import gc
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import FIGURES_FILE, HISTORY_FILE, SIZES_FILE, PeerFigures, PeerSizes
from benchmarks.peers import faust_table as faust_module
from benchmarks.peers import quix_state as quix_module
from benchmarks.peers.key_an_event import KeyAnEvent
from benchmarks.peers.packed import RAW, OneValue, Raw
from benchmarks.peers.peer import EVENT, Columns, Peer, PeerMissingError, Row, columns_of
from benchmarks.peers.protobuf_list import ProtobufList
from benchmarks.peers.redis_list import RedisList

PACKAGES = ("faust-streaming", "hiredis", "numpy", "orjson", "protobuf", "quixstreams", "redis", "rocksdict")
MIB = 1 << 20
_READ_USERS = 4
# The least and the greatest number of timed batches.
_APPEND_ROUNDS = (3, 500)
_WARM_EVENTS = 100
_LEAST_READS = 50

PeerFactory = Callable[[Path], Peer]


def main(directory: Path) -> None:
    """Measure, and write the figures."""
    with np.load(directory / HISTORY_FILE, allow_pickle=False) as arrays:
        history = dict(arrays)
    sizes = PeerSizes(**json.loads((directory / SIZES_FILE).read_text()))
    figures = measure(directory, history, sizes)
    (directory / FIGURES_FILE).write_text(json.dumps(figures._asdict()))


def measure(directory: Path, history: Mapping[str, NDArray[np.generic]], sizes: PeerSizes) -> PeerFigures:
    """Measure one peer after the other; `directory` is where their databases go and are removed again."""
    events = np.empty(len(history["user_id"]), EVENT)
    for name in EVENT.names or ():
        events[name] = history[name]
    embedding_of = dict(
        zip(history["embedded_item_id"].tolist(), (row.tobytes() for row in history["embedding"]), strict=True)
    )
    peers: dict[str, PeerFactory] = {
        "raw": lambda directory: Raw(directory, embedding_of),
        "one_value": OneValue,
        "key_an_event": KeyAnEvent,
        "protobuf_list": ProtobufList,
        "redis_list": RedisList,
        "faust_table": faust_module.FaustTable,
        "quix_state": quix_module.QuixState,
    }
    figures = PeerFigures({}, {}, {}, {}, _block_caches(), {name: version(name) for name in PACKAGES}, [])
    for name, make in peers.items():
        try:
            with _opened(make, directory / name) as peer:
                figures.bytes_per_event[name] = _bytes(peer, history["user_id"], events)
                if isinstance(peer, RedisList):
                    figures.versions["redis-server"] = peer.version()
            with _opened(make, directory / name) as peer:
                figures.append_per_s[name] = _append_per_s(peer, events, sizes)
            with _opened(make, directory / name) as peer:
                times = _read_ms(peer, events, sizes)
        except PeerMissingError as missing:
            figures.notes.append(str(missing))
            continue
        figures.read_16k_p50_ms[name] = float(np.median(times))
        figures.read_16k_p99_ms[name] = float(np.percentile(times, 99))
    figures.bytes_per_event["raw_zstd"] = figures.bytes_per_event["raw"]
    figures.bytes_per_event["raw"] = RAW.itemsize
    return figures


def _opened(make: PeerFactory, directory: Path) -> Peer:
    shutil.rmtree(directory, ignore_errors=True)
    return make(directory)


def _bytes(peer: Peer, user_id: NDArray[np.generic], events: NDArray[np.void]) -> float:
    """Return the bytes an event of the whole history.

    Each user's list is written once: compacted, it is what event after event would have left.
    """
    users, codes = np.unique(user_id, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(users) + 1))
    for number, user in enumerate(users.tolist()):
        peer.extend(user, events[order[bounds[number] : bounds[number + 1]]])
    return peer.settle() / len(events)


def _append_per_s(peer: Peer, events: NDArray[np.void], sizes: PeerSizes) -> float:
    """Return the median events/s over batches, after some events that are not counted."""
    users = [f"user-{number}" for number in range(sizes.append_users)]
    for number, user in enumerate(users):
        peer.extend(user, _slice(events, number * sizes.append_history, sizes.append_history))
    peer.settle()
    batches = _batches(users, events, sizes.append_batch)
    peer.append(next(batches)[:_WARM_EVENTS])
    _freeze_garbage()
    least, most = _APPEND_ROUNDS
    times: list[float] = []
    while len(times) < least or (len(times) < most and sum(times) < sizes.seconds):
        batch = next(batches)
        started = time.perf_counter()
        peer.append(batch)
        times.append(time.perf_counter() - started)
    return sizes.append_batch / float(np.median(times))


def _batches(users: list[str], events: NDArray[np.void], length: int) -> Iterator[list[tuple[str, Row]]]:
    """Yield batches without end: the history's events, each for a random one of `users`."""
    chance = np.random.default_rng(0)
    start = 0
    while True:
        chosen = chance.integers(len(users), size=length).tolist()
        rows: list[Row] = _slice(events, start, length).tolist()
        yield [(users[number], row) for number, row in zip(chosen, rows, strict=True)]
        start += length


def _read_ms(peer: Peer, events: NDArray[np.void], sizes: PeerSizes) -> list[float]:
    """Return the latency of each read in ms, with warm caches."""
    whole = {
        f"user-{number}": np.sort(_slice(events, number * sizes.read_events, sizes.read_events), order="timestamp_ms")
        for number in range(_READ_USERS)
    }
    for user, expected in whole.items():
        peer.extend(user, expected)
    peer.settle()
    for user, expected in whole.items():
        _check(peer.read(user), columns_of(expected))
    _freeze_garbage()
    times: list[float] = []
    stop = time.perf_counter() + sizes.seconds
    while len(times) < sizes.reads and (len(times) < _LEAST_READS or time.perf_counter() < stop):
        user = f"user-{len(times) % _READ_USERS}"
        started = time.perf_counter()
        peer.read(user)
        times.append((time.perf_counter() - started) * 1_000)
    return times


def _freeze_garbage() -> None:
    """Exclude all present objects from garbage collection, so that it does not slow a peer."""
    gc.collect()
    gc.freeze()


def _check(found: Columns, expected: Columns) -> None:
    wanted = expected._asdict()
    for name, column in found._asdict().items():
        if column.dtype != wanted[name].dtype or not np.array_equal(column, wanted[name]):
            raise ValueError(f"a peer returned a wrong {name}: its figures are invalid, fix the peer")


def _slice(events: NDArray[np.void], start: int, length: int) -> NDArray[np.void]:
    """Return `length` events from `start` on, from the beginning again after the last."""
    return events[np.arange(start, start + length) % len(events)]


def _block_caches() -> dict[str, float]:
    return {
        "faust_table": faust_module.BLOCK_CACHE_BYTES / MIB,
        "quix_state": quix_module.BLOCK_CACHE_BYTES / MIB,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
