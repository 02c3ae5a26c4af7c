"""The whole path on one machine: ingest, freshness, reads and scores of a node in a process of its own.

Broker, node and callers share the machine's cores. The history is that of the demo. The model has the published shape
and random weights, which take as long as trained ones.
"""

import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from benchmarks.freshness import measure_freshness
from benchmarks.report import Bar, Report, Row
from lifeline.cli.console import err
from lifeline.cli.progress import progress
from lifeline.client import LifelineClient
from lifeline.config import Settings, load_settings
from lifeline.core.actions import Kind
from lifeline.core.topics import create_topics, delete_topics
from lifeline.dev.broker import cluster_or_broker
from lifeline.dev.node_process import Event, NodeProcess, settings_for
from lifeline.ops.publish import publish
from lifeline.scorer import weights
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.model import TransAct
from lifeline.sources.history import History, demo_history
from lifeline.v1.action_pb2 import Action

INGEST_RUNS = 3
RATE_PER_S = 1_000
RATE_SECONDS = 20
SAMPLE_EVERY = 10
READS = 200
SCORES = 60
_READY_S = 300.0


def run(bootstrap_servers: str | None) -> Report:
    """Run it all, about two minutes."""
    history = demo_history()
    err.print(history.description, highlight=False)
    loaded = load_settings(None, {"kafka.bootstrap_servers": bootstrap_servers})
    given = loaded.settings.kafka.bootstrap_servers if loaded.is_set("kafka.bootstrap_servers") else None
    with ExitStack() as stack:
        servers = stack.enter_context(cluster_or_broker(given))
        workdir = stack.enter_context(tempfile.TemporaryDirectory(prefix="lifeline-bench-"))
        suffix = f"-bench-{uuid.uuid4().hex[:8]}"
        settings = settings_for(servers, Path(workdir), history.vocabulary, suffix=suffix)
        create_topics(settings.kafka)
        stack.callback(delete_topics, settings.kafka)
        with progress() as bar:
            published = publish(settings.kafka, history.source(), history.embeddings, history.vocabulary, bar)
        _save_random_model(settings, history)
        rows = [
            Row("publish_events_per_s", published.actions / published.seconds, "events/s"),
            Row("ingest_events_per_s", _ingest(settings, history, Path(workdir)), "events/s", Bar(">=", 20_000)),
        ]
        with NodeProcess(settings, Path(workdir)) as node:
            node.start()
            node.wait_ready(_READY_S)
            with LifelineClient(node.address, timeout_s=60) as client:
                rows += _reads(client, history)
                rows += _scores(client, history)
            rows += _freshness(settings, node, history)
    notes = (
        history.description,
        "broker, node and callers share the machine; reads and scores are of one user each, warm",
        "the model has the published shape and random weights: they take as long as trained ones",
    )
    return Report("slice", rows, notes)


def _ingest(settings: Settings, history: History, workdir: Path) -> float:
    """Return the median events/s from the first partition's opening to the node's readiness."""
    rates = []
    for number in range(INGEST_RUNS):
        workdir = workdir / f"ingest-{number}"
        workdir.mkdir()
        kafka = settings.kafka.model_copy(update={"group_id": f"{settings.kafka.group_id}-{number}"})
        node = settings.node.model_copy(update={"data_dir": workdir / "data"})
        moments: dict[str, float] = {}

        def follow(event: Event, moments: dict[str, float] = moments) -> None:
            if event.get("state") == "catching_up" or event["event"] == "ready":
                moments.setdefault(event["event"], datetime.fromisoformat(event["timestamp"]).timestamp())

        with NodeProcess(settings.model_copy(update={"kafka": kafka, "node": node}), workdir) as process:
            process.start()
            process.wait_ready(_READY_S, follow)
            process.stop()
        rates.append(len(history) / (moments["ready"] - moments["partition"]))
        err.print(f"ingest run {number + 1}: {rates[-1]:,.0f} events/s")
    return float(np.median(rates))


def _reads(client: LifelineClient, history: History) -> list[Row]:
    counts = Counter(history.user_id)
    thousand = min(counts, key=lambda user: abs(counts[user] - 1_000))
    longest = max(counts, key=lambda user: counts[user])
    rows = []
    for name, user in (("1k", thousand), ("14k", longest)):
        length = client.get_sequence(user).sequences[Kind.EXPLICIT].length
        times = _timed(READS, lambda user=user: client.get_sequence(user))  # type: ignore[misc]
        rows.append(Row(f"get_sequence_{name}_length", length, "events"))
        rows.append(Row(f"get_sequence_{name}_p50_ms", float(np.median(times)), "ms"))
        if name == "14k":
            rows.append(Row(f"get_sequence_{name}_p99_ms", float(np.percentile(times, 99)), "ms"))
    return rows


def _scores(client: LifelineClient, history: History) -> list[Row]:
    user = history.longest_users(1)[0]
    candidates = history.embeddings.item_id[:64]
    times = _timed(SCORES, lambda: client.score(user, candidates))
    return [
        Row("score_64_p50_ms", float(np.median(times)), "ms"),
        Row("score_64_p99_ms", float(np.percentile(times, 99)), "ms"),
    ]


def _timed(times: int, call: Callable[[], object]) -> list[float]:
    for _ in range(max(5, times // 10)):
        call()
    measured = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        measured.append((time.perf_counter() - started) * 1_000)
    return measured


def _freshness(settings: Settings, node: NodeProcess, history: History) -> list[Row]:
    users = history.longest_users(200)
    items = history.embeddings.item_id.tolist()
    actions = (
        Action(
            user_id=users[number % len(users)],
            item_id=items[number % len(items)],
            timestamp_ms=int(time.time() * 1_000),
            action_type=1,
        )
        for number in range(RATE_PER_S * RATE_SECONDS)
    )
    measured = measure_freshness(
        node.address, settings.kafka, actions, per_s=RATE_PER_S, sample_every=SAMPLE_EVERY, linger_ms=1
    )
    return [
        Row("freshness_published_per_s", measured.per_s, "events/s", Bar(">=", 0.99 * RATE_PER_S)),
        Row("freshness_samples", measured.samples, "calls"),
        Row("action_to_readable_p50_ms", measured.p50_ms, "ms"),
        Row("action_to_readable_p99_ms", measured.p99_ms, "ms", Bar("<=", 500)),
    ]


def _save_random_model(settings: Settings, history: History) -> None:
    torch.manual_seed(0)
    model = TransAct(ModelConfig(heads=default_heads(history.vocabulary))).eval()
    weights.save(settings.scorer.models_dir, settings.scorer.model, model, history.vocabulary)
