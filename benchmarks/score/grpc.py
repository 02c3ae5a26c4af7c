"""A node in a process of its own, over gRPC: one client, four clients, whole reads, and three times its capacity."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.peers.redis_read import measure as measure_redis
from benchmarks.report import Bar, Row
from benchmarks.score.requests import single_torch_thread
from benchmarks.score.timing import times_ms
from benchmarks.score.world import ACTIONS, APART_MS, CANDIDATES
from benchmarks.stream.environment import rss_mib
from lifeline.cli.progress import progress
from lifeline.client import LifelineClient
from lifeline.config import Settings, load_settings
from lifeline.core.actions import Kind
from lifeline.core.paths import items_dir
from lifeline.core.topics import create_topics, delete_topics
from lifeline.dev.broker import cluster_or_broker
from lifeline.dev.node_process import NodeProcess, settings_for
from lifeline.ops.offline import open_user_readers
from lifeline.ops.publish import publish
from lifeline.scorer import weights
from lifeline.scorer.backend import backend_of
from lifeline.scorer.config import default_heads
from lifeline.scorer.evaluate.simulator import DAY_MS, START_MS, Simulator, SimulatorSettings
from lifeline.scorer.features import RequestContext
from lifeline.scorer.history_cache import HistoryCache
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.scorer import Scorer
from lifeline.scorer.variants import variant
from lifeline.sources.history import History, ItemEmbeddings
from lifeline.store.embeddings import SecondaryEmbeddings

USERS, CLIENTS = 8, 4
SECONDS, OVERLOAD_SECONDS, OVERLOAD = 5.0, 60.0, 3.0
_REQUESTS, _READS = 200, 300
_READY_S = 300.0
_ASKED_MS = START_MS + 1_000 * DAY_MS
_SETTLED_S = 15.0
"""Seconds under load after which a process's memory is stable."""


class LoadedNode(NamedTuple):
    """A node whose users are all at their cap."""

    process: NodeProcess
    settings: Settings
    users: list[str]
    candidates: np.ndarray
    """uint64[256]."""


@contextmanager
def start_node(bootstrap_servers: str | None, notes: list[str]) -> Iterator[LoadedNode]:
    """Publish the users' actions, and start a node that has them all."""
    loaded = load_settings(None, {"kafka.bootstrap_servers": bootstrap_servers})
    configured_servers = loaded.settings.kafka.bootstrap_servers if loaded.is_set("kafka.bootstrap_servers") else None
    history = _history()
    with ExitStack() as stack:
        servers = stack.enter_context(cluster_or_broker(configured_servers))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lifeline-bench-")))
        flags = {
            "scorer.precision": "bfloat16",
            "scorer.threads": os.cpu_count(),
            "scorer.max_concurrent": 2,
            # No cache: the users do not act, and every request should read the store.
            "scorer.token_tables_mib": 0,
        }
        suffix = f"-bench-{uuid.uuid4().hex[:8]}"
        settings = settings_for(servers, place, history.vocabulary, suffix=suffix, flags=flags)
        create_topics(settings.kafka)
        stack.callback(delete_topics, settings.kafka)
        with progress() as bar:
            publish(settings.kafka, history.source(), history.embeddings, history.vocabulary, bar)
        torch.manual_seed(0)
        model = TransAct(variant("v2", default_heads(history.vocabulary))).eval()
        weights.save(settings.scorer.models_dir, settings.scorer.model, model, history.vocabulary)
        process = stack.enter_context(NodeProcess(settings, place))
        process.start()
        process.wait_ready(_READY_S)
        chosen = np.random.default_rng(0).choice(history.embeddings.item_id, CANDIDATES, replace=False)
        notes.append(
            f"over gRPC: {USERS} users at their cap, {flags['scorer.threads']} threads a request, "
            f"{flags['scorer.max_concurrent']} requests at once; node, broker and callers share the machine"
        )
        yield LoadedNode(process, process.settings, sorted(set(history.user_id)), chosen)


def grpc(node: LoadedNode, notes: list[str]) -> list[Row]:
    """Score with one client, then with four, and in this process with as many at once as the node takes."""
    with LifelineClient(node.process.address, timeout_s=60) as client:
        found = times_ms(lambda: _score(client, node, 0), _REQUESTS)
    p50, p99 = (float(np.quantile(found, share)) for share in (0.5, 0.99))
    # In turns, because the speed of the machine drifts.
    with _in_process(node) as call:
        rounds = [(_throughput([call] * node.settings.scorer.max_concurrent), _node_throughput(node)) for _ in range(3)]
    inside, together = (
        float(np.median([throughput.per_s for throughput in side])) for side in zip(*rounds, strict=True)
    )
    ratio = float(np.median([over.per_s / alone.per_s for alone, over in rounds]))
    ms = [sample for _, over in rounds for sample in over.ms]
    notes.append(f"{CLIENTS} clients: p50 {np.median(ms):.1f} ms, p99 {np.quantile(ms, 0.99):.1f} ms")
    tail = float(np.quantile(ms, 0.99) / np.median(ms))
    return [
        Row("score_grpc_p50_ms", p50, "ms", Bar("<=", 20.0)),
        Row("score_grpc_p99_ms", p99, "ms"),
        Row("score_in_process_per_s", inside, "calls/s"),
        Row("score_grpc_per_s", together, "calls/s"),
        Row("score_grpc_throughput_ratio", ratio, "x", Bar(">=", 0.9)),
        Row("score_grpc_p99_over_p50", tail, "x", Bar("<=", 3.0)),
    ]


def reads(node: LoadedNode, notes: list[str]) -> list[Row]:
    """Read 16,384 events without embeddings, of all users in turn."""
    with LifelineClient(node.process.address, timeout_s=60) as client:
        lengths = {client.get_sequence(user).sequences[Kind.EXPLICIT].length for user in node.users}
        notes.append(f"reads: {', '.join(f'{length:,}' for length in sorted(lengths))} events")
        turn = iter(range(1 << 30))
        found = times_ms(lambda: client.get_sequence(node.users[next(turn) % USERS]), _READS)
    peers = measure_redis(max(lengths), notes)
    return [
        Row("get_sequence_16k_p50_ms", float(np.median(found)), "ms", Bar("<=", 3.0), peers),
        Row("get_sequence_16k_p99_ms", float(np.quantile(found, 0.99)), "ms"),
    ]


def overload(node: LoadedNode, notes: list[str]) -> list[Row]:
    """Send the node three times the calls that it can answer, for a minute, in an open loop."""
    capacity = _node_throughput(node).per_s
    command = [
        sys.executable,
        "-m",
        "lifeline",
        "load",
        "--json",
        "--scores",
        "1",
        "--config",
        str(node.process.config),
    ]
    command += ["--address", node.process.address, "--candidates", str(CANDIDATES)]
    command += ["--rate", str(OVERLOAD * capacity), "--seconds", str(OVERLOAD_SECONDS)]
    started = time.perf_counter()
    memory: list[tuple[float, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        reader = ThreadPoolExecutor(1).submit(process.communicate)
        while not reader.done():
            memory.append((time.perf_counter() - started, rss_mib(node.process.pid)))
            time.sleep(0.5)
        output, _ = reader.result()
    result: dict[str, Any] = json.loads(output)
    scores = result["calls"]["score"]
    settled = [mib for at, mib in memory if at >= _SETTLED_S]
    unanswered = sum(count for code, count in scores["failed"].items() if code != "RESOURCE_EXHAUSTED")
    refused = scores["failed"].get("RESOURCE_EXHAUSTED", 0)
    notes.append(
        f"overload: capacity {capacity:.1f} calls/s, {OVERLOAD * capacity:.0f} a second came, {scores['answered']:,} "
        f"were answered (p99 {scores['latency_ms']['p99']:.0f} ms) and {refused:,} refused; the node held "
        f"{min(settled):,.0f} to {max(settled):,.0f} MiB after its first {_SETTLED_S:.0f} s"
    )
    return [
        Row("overload_goodput_ratio", result["answered_per_s"] / capacity, "x", Bar(">=", 0.9)),
        Row("overload_memory_growth_percent", _growth_percent(settled), "%", Bar("<=", 3.0)),
        Row("overload_unanswered", unanswered, "calls", Bar("==", 0)),
        Row("overload_sent_late_p99_ms", result["sent_late_ms"]["p99"], "ms"),
    ]


def _growth_percent(samples: list[float]) -> float:
    """Return the growth from the first quarter to the last: a single sample depends on the requests under way."""
    quarter = max(1, len(samples) // 4)
    return float(np.median(samples[-quarter:]) / np.median(samples[:quarter]) - 1) * 100


class _Throughput(NamedTuple):
    per_s: float
    ms: list[float]


def _node_throughput(node: LoadedNode) -> _Throughput:
    """Return the throughput of `CLIENTS` clients, each with one call at a time."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(LifelineClient(node.process.address, timeout_s=60, retry=False)) for _ in range(CLIENTS)
        ]
        return _throughput([lambda at, client=client: _score(client, node, at) for client in clients])  # type: ignore[misc]


def _throughput(callers: list[Callable[[int], object]]) -> _Throughput:
    for caller in callers:
        caller(0)
    until = time.perf_counter() + SECONDS
    start = threading.Barrier(len(callers) + 1)

    def call(number: int) -> list[float]:
        found: list[float] = []
        start.wait()
        while (started := time.perf_counter()) < until:
            callers[number](number + len(callers) * len(found))
            found.append((time.perf_counter() - started) * 1_000)
        return found

    with ThreadPoolExecutor(len(callers)) as pool:
        futures = [pool.submit(call, number) for number in range(len(callers))]
        start.wait()
        started = time.perf_counter()
        ms = [sample for future in futures for sample in future.result()]
        return _Throughput(len(ms) / (time.perf_counter() - started), ms)


def _score(client: LifelineClient, node: LoadedNode, at: int) -> object:
    return client.score(node.users[at % USERS], node.candidates, timestamp_ms=_ASKED_MS)


@contextmanager
def _in_process(node: LoadedNode) -> Iterator[Callable[[int], object]]:
    """Yield a function that scores in this process, with the node's settings and files."""
    settings = node.settings
    loaded = weights.load(settings.scorer, settings.vocabulary)
    with (
        single_torch_thread(),
        closing(SecondaryEmbeddings.open(items_dir(settings.node.data_dir))) as embeddings,
        open_user_readers(settings) as reader_of,
    ):
        scorer = Scorer(
            loaded,
            settings.vocabulary,
            embeddings,
            backend_of(loaded, Precision.BFLOAT16, settings.scorer.threads),
        )
        context, tables = RequestContext(_ASKED_MS), HistoryCache(0)

        def call(at: int) -> object:
            user = node.users[at % USERS]
            reader = reader_of(user)
            if reader is None:
                raise RuntimeError(f"{user} is in no partition of {settings.node.data_dir}")
            _, history = tables.history(reader, user, scorer.config)
            return scorer.score(history, node.candidates, context)

        yield call


def _history() -> History:
    simulator = Simulator(SimulatorSettings(users=USERS, min_actions=ACTIONS, max_actions=ACTIONS))
    users = list(simulator.users())
    counts = [len(user.events.item) for user in users]
    items = simulator.items
    return History(
        "bench",
        f"{USERS} simulated users of {ACTIONS:,} actions",
        [user.user_id for user, count in zip(users, counts, strict=True) for _ in range(count)],
        np.concatenate([START_MS + np.arange(count) * APART_MS for count in counts]),
        np.concatenate([items.item_id[user.events.item] for user in users]),
        np.concatenate([user.events.action_type for user in users]),
        np.concatenate([user.events.surface for user in users]),
        ItemEmbeddings(items.item_id, items.embedding),
        simulator.vocabulary,
    )
