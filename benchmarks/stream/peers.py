"""Peers: Quix Streams and a Faust table live, and Quix Streams' recovery, on a topic of users who hold 4,000 events."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from kafka import KafkaProducer
from numpy.typing import NDArray

from benchmarks.peers import FIGURE_FILE, NOT_MEASURED, PYTHON, ROOT
from benchmarks.store.workloads import Workload
from benchmarks.stream.environment import Environment, open_environment
from lifeline.core.partitioner import partition_of
from lifeline.core.vocabulary import Vocabulary

NAMES = ("quix_streams", "faust_table")
HISTORY = 4_000
SECONDS = 20.0
_USERS = 100
_EVENTS = 200_000
_APPENDS = 10_000
_LIMIT_S = 300.0
_EVENT = np.dtype([("timestamp_ms", "<i8"), ("item_id", "<u8"), ("action_type", "u1"), ("surface", "u1")])


class LivePeers(NamedTuple):
    """Events/s by peer, and notes on those that could not be measured."""

    per_s: dict[str, float]
    notes: list[str]


def live_peers(bootstrap_servers: str, vocabulary: Vocabulary, workload: Workload) -> LivePeers:
    """Measure each peer for `SECONDS`; empty with a note if the peers' environment is missing."""
    peers = LivePeers({}, [])
    with _peers_topic(bootstrap_servers, vocabulary, workload, peers.notes) as environment:
        for name in NAMES:
            if environment is None:
                break
            figure = _measure(environment, peers.notes, f"{name} was", "live", (name,), (_USERS, SECONDS))
            if figure is not None:
                peers.per_s[name] = figure["per_s"]
    return peers


def quix_recovery(bootstrap_servers: str, vocabulary: Vocabulary, workload: Workload) -> LivePeers:
    """Measure how fast Quix Streams rebuilds a lost state, in events of the state per second."""
    peers = LivePeers({}, [])
    with _peers_topic(bootstrap_servers, vocabulary, workload, peers.notes) as environment:
        if environment is not None:
            sizes = (_USERS, _APPENDS)
            figure = _measure(environment, peers.notes, "the recovery of quix_streams was", "recovery", (), sizes)
            if figure is not None:
                peers.per_s["quix_streams"] = (_USERS * HISTORY + _APPENDS) / figure["seconds"]
    return peers


@contextmanager
def _peers_topic(
    bootstrap_servers: str, vocabulary: Vocabulary, workload: Workload, notes: list[str]
) -> Iterator[Environment | None]:
    """Give topics that are filled for the peers; None with a note where their environment is not there."""
    if not PYTHON.is_file():
        notes.append(NOT_MEASURED)
        yield None
        return
    events = np.empty(len(workload), _EVENT)
    events["timestamp_ms"], events["item_id"] = workload.timestamp_ms, workload.item_id
    events["action_type"], events["surface"] = workload.code >> 8, workload.code & 0xFF
    with open_environment(bootstrap_servers, vocabulary) as environment:
        _fill(environment.kafka.servers, environment.kafka.actions_topic, environment.kafka.partitions, events)
        yield environment


def _measure(
    environment: Environment, notes: list[str], what: str, module: str, before: Sequence[str], sizes: Sequence[float]
) -> dict[str, float] | None:
    """Run a module of the peers in a process of its own; None with a note when that failed."""
    with tempfile.TemporaryDirectory(prefix="lifeline-peers-") as directory:
        command = [
            *(str(PYTHON.absolute()), "-m", f"benchmarks.peers.{module}", *before, environment.kafka.servers[0]),
            *(environment.kafka.actions_topic, directory, *map(str, sizes)),
        ]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "PEER_PARTITIONS": str(environment.kafka.partitions)}
        try:
            subprocess.run(
                command,
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                timeout=_LIMIT_S,
                check=True,
            )
            figure: dict[str, float] = json.loads((Path(directory) / FIGURE_FILE).read_text())
        except (subprocess.SubprocessError, FileNotFoundError) as error:
            notes.append(f"{what} not measured: {error}")
            return None
    return figure


def _fill(servers: list[str], topic: str, partitions: int, events: NDArray[np.void]) -> None:
    producer = KafkaProducer(bootstrap_servers=servers, acks="all", max_request_size=4 << 20)
    for user, value in _records(events):
        key = user.encode()
        producer.send(topic, key=key, value=value, partition=partition_of(key, partitions))
    producer.flush()
    producer.close()


def _records(events: NDArray[np.void]) -> Iterator[tuple[str, bytes]]:
    """Yield each user's first list, and then an event for one user after the other."""
    users = [f"user-{number}" for number in range(_USERS)]
    order = np.arange(_USERS * HISTORY + _EVENTS) % len(events)
    for number, user in enumerate(users):
        yield user, events[order[number * HISTORY : (number + 1) * HISTORY]].tobytes()
    random_users = np.random.default_rng(0).integers(_USERS, size=_EVENTS).tolist()
    for number, row in zip(random_users, events[order[_USERS * HISTORY :]], strict=True):
        yield users[number], row.tobytes()
