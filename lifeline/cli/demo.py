"""The demo: the whole path once, on a real Kafka and a real history, with every step printed."""

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from lifeline.cli.fetch import fetch_display
from lifeline.cli.output import Output, Table
from lifeline.cli.scores import scores_table, tokens_table
from lifeline.cli.sequences import sequence_table
from lifeline.client import LifelineClient, Scores
from lifeline.config import Settings, load_settings
from lifeline.core.actions import Kind
from lifeline.core.paths import partition_dir, partitions_in
from lifeline.core.printable import printable, shell_words
from lifeline.core.scratch import temporary_dir
from lifeline.core.sequence import SequenceQuery
from lifeline.core.topics import create_topics, delete_topics
from lifeline.core.vocabulary import Role
from lifeline.dev.broker import cluster_or_broker
from lifeline.dev.node_process import Event, NodeProcess, settings_for
from lifeline.learning.training import TrainingPlan, save_version, train_from_store
from lifeline.ops.publish import publish
from lifeline.producer.producer import LifelineProducer
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.trainer import Step
from lifeline.sources.history import History, demo_history
from lifeline.v1.action_pb2 import Action

_CANDIDATES = 8
_RECENT = 2_000
_MANY_STEPS = 100_000
_READY_TIMEOUT_S = 300.0


@dataclass(slots=True)
class _Figures:
    """The figures of the summary, measured on the way."""

    actions: int = 0
    publish_s: float = 0.0
    events_per_s: float = 0.0
    disk_bytes: int = 0
    whole_events: int = 0
    whole_ms: float = 0.0
    train_s: float = 0.0
    restart_s: float = 0.0
    visible_ms: float = 0.0
    scored_ms: float = 0.0
    score_before: float = 0.0
    score_after: float = 0.0


def run_demo(*, keep: bool, bootstrap_servers: str | None, train_seconds: float) -> None:
    """Run the demo; with `keep` everything keeps running until Ctrl-C. Raises what its parts raise."""
    loaded = load_settings(None, {"kafka.bootstrap_servers": bootstrap_servers})
    is_given = loaded.is_set("kafka.bootstrap_servers")
    workdir = temporary_dir("lifeline-demo-")
    try:
        with ExitStack() as stack:
            demo = _Demo(workdir, stack, loaded.settings.kafka.bootstrap_servers if is_given else None)
            demo.run(train_seconds)
            if keep:
                demo.stay()
    finally:
        shutil.rmtree(workdir, ignore_errors=True)


class _Demo:
    """The steps, in order."""

    def __init__(self, workdir: Path, stack: ExitStack, bootstrap_servers: str | None) -> None:
        self._workdir, self._stack, self._bootstrap_servers = workdir, stack, bootstrap_servers
        self._output = Output()
        self._started = time.monotonic()
        self._steps = 0
        self._figures = _Figures()

    def run(self, train_seconds: float) -> None:
        """Run every step, and print the summary."""
        history = demo_history()
        self._say("A history", f"{history.description}.")
        settings = self._start_broker(history)
        self._publish(settings, history)
        self._node = self._stack.enter_context(NodeProcess(settings, self._workdir))
        self._consume(history)
        self._user = history.longest_users(1)[0]
        with LifelineClient(self._node.address, timeout_s=30) as client:
            self._read(client, settings)
            self._train(settings, train_seconds)
            candidates = _candidates(history, self._user)
            before = self._score(client, settings, candidates)
            self._act(client, settings, before)
        self._output.print(self._summary())

    def stay(self) -> None:
        """Print commands to try, and wait for Ctrl-C."""
        config, user = f"--config {self._node.config}", shell_words(self._user)
        commands = (
            f"lifeline get {config} {user}",
            f"lifeline score --explain {config} {user} {' '.join(map(str, self._candidates))}",
            f"lifeline verify {config}",
            f"lifeline health {config}",
            f"lifeline produce --history {config}",
            f"lifeline erase {config} {user}",
        )
        self._output.print(
            "",
            "Everything is running. Try in another terminal:",
            "",
            *(f"  {command}" for command in commands),
            "",
            "Ctrl-C stops everything.",
        )
        try:
            while True:
                time.sleep(3_600)
        except KeyboardInterrupt:
            self._output.print("stopping")

    def _say(self, title: str, text: str) -> None:
        self._steps += 1
        self._output.print(
            Text(f"\n{self._steps}. {title}  ", style="bold cyan").append(printable(text), style="not bold default")
        )

    def _start_broker(self, history: History) -> Settings:
        self._say(
            "Apache Kafka", "a real Kafka broker, as a single KRaft process; downloaded once into the user's cache."
        )
        with fetch_display() as show:
            servers = self._stack.enter_context(cluster_or_broker(self._bootstrap_servers, progress=show))
        # On an existing cluster, the demo uses its own topics and consumer group.
        suffix = f"-demo-{uuid.uuid4().hex[:8]}" if self._bootstrap_servers else ""
        settings = settings_for(servers, self._workdir, history.vocabulary, suffix=suffix)
        reports = create_topics(settings.kafka)
        if self._bootstrap_servers:
            self._stack.callback(delete_topics, settings.kafka)
        rows = [(report.plan.name, report.state.value, report.plan.partitions) for report in reports]
        self._output.print(Table(f"Topics at {servers}", ("topic", "state", "partitions>"), rows))
        return settings

    def _publish(self, settings: Settings, history: History) -> None:
        self._say("Publish", "every action, keyed by its user, idempotent, acknowledged by all replicas.")
        with self._output.progress() as bar:
            published = publish(settings.kafka, history.source(), history.embeddings, history.vocabulary, bar)
        self._figures.actions, self._figures.publish_s = published.actions, published.seconds
        self._output.print(
            f"{published.items:,} embeddings and {published.actions:,} actions acknowledged in "
            f"{published.seconds:.1f} s ({published.actions / published.seconds:,.0f}/s)"
        )

    def _consume(self, history: History) -> None:
        self._say("A node", "consumes the topic into RocksDB: events, offset and fingerprint in one write.")
        self._node.start()
        with self._output.progress() as bar:
            task = bar.add_task("applying", total=len(history), note="starting")
            first = last = time.monotonic()

            def follow(event: Event) -> None:
                nonlocal first, last
                last = time.monotonic()
                if event.get("state") == "assigned":
                    first = last
                if event["event"] == "progress":
                    note = f"{event['events_per_s']:>8,.0f} events/s   lag {event['lag']:>8,}"
                    bar.update(task, completed=event["applied"], note=note)

            self._node.wait_ready(_READY_TIMEOUT_S, follow)
            self._figures.events_per_s = len(history) / (last - first)
            bar.update(task, completed=len(history))
        self._output.print(f"applied at {self._figures.events_per_s:,.0f} events/s, lag 0: serving")
        data = self._node.settings.node.data_dir
        self._figures.disk_bytes = sum(
            path.stat().st_size
            for number in partitions_in(data)
            for path in partition_dir(data, number).rglob("*")
            if path.is_file()
        )

    def _read(self, client: LifelineClient, settings: Settings) -> None:
        self._say("Read", "one user's newest actions, over gRPC, as packed columns.")
        answer = client.get_sequence(self._user, SequenceQuery(newest=8))
        self._output.print(sequence_table(self._user, Kind.EXPLICIT, answer, settings.vocabulary))
        times = []
        for _ in range(20):
            started = time.perf_counter()
            whole = client.get_sequence(self._user)
            times.append(time.perf_counter() - started)
        self._figures.whole_events = whole.sequences[Kind.EXPLICIT].length
        self._figures.whole_ms = float(np.median(times)) * 1_000
        self._output.print(
            f"the whole history of {self._figures.whole_events:,} events takes {self._figures.whole_ms:.1f} ms"
        )

    def _train(self, settings: Settings, seconds: float) -> None:
        self._say(
            "Train",
            f"a small TransActV2 on the stored histories, for about {seconds:.0f} s: too short for a good model.",
        )
        started = time.monotonic()
        with self._output.progress() as bar:
            task = bar.add_task("training", total=None, note="reading the histories")

            def show(at: Step) -> None:
                note = f"loss {at.loss:.3f}, {at.examples_per_s:,.0f} examples/s"
                bar.update(task, completed=at.step, total=at.total, note=note)

            plan = TrainingPlan(TrainSettings(max_seconds=seconds, steps=_MANY_STEPS))
            manifest = save_version(settings, train_from_store(settings, plan, show))
        self._figures.train_s = time.monotonic() - started
        self._output.print(
            Table("Held-out requests, all later than training", ("measure", "value>"), _metrics(manifest.metrics))
        )
        exit_code = self._node.stop()
        self._node.start()
        self._figures.restart_s = self._node.wait_ready(_READY_TIMEOUT_S)
        self._output.print(
            f"the node stopped gracefully (exit code {exit_code}) and was ready again with model {manifest.version} in "
            f"{self._figures.restart_s:.1f} s, without reading the log again"
        )

    def _score(self, client: LifelineClient, settings: Settings, candidates: list[int]) -> Scores:
        self._say("Score", f"{len(candidates)} candidates for {self._user}, with the current history.")
        self._candidates = candidates
        self._request_ms = int(time.time() * 1_000) + 1_000
        scores = client.score(self._user, candidates, timestamp_ms=self._request_ms, explain=0)
        self._output.print(scores_table(self._user, scores))
        best = int(scores.score.argmax())
        self._output.print(tokens_table(scores, best, settings.vocabulary, most=2))
        return scores

    def _act(self, client: LifelineClient, settings: Settings, before: Scores) -> None:
        last = int(before.score.argmin())
        item = int(before.item_id[last])
        self._say(
            "One more action", f"the user acts on item {item}, which was ranked last. How soon does its score change?"
        )
        action_type = min(settings.vocabulary.ids_with_role(Role.POSITIVE))
        action = Action(
            user_id=self._user, item_id=item, timestamp_ms=int(time.time() * 1_000), action_type=action_type, surface=1
        )
        with LifelineProducer(settings.kafka, vocabulary=settings.vocabulary, linger_ms=0) as producer:
            at = producer.publish(action).result(30)
            acknowledged = time.perf_counter()
            newest = client.get_sequence(self._user, SequenceQuery(newest=3), min_offset=at.offset)
            self._figures.visible_ms = (time.perf_counter() - acknowledged) * 1_000
            after = client.score(
                self._user, self._candidates, timestamp_ms=self._request_ms, min_offset=at.offset, explain=0
            )
            self._figures.scored_ms = (time.perf_counter() - acknowledged) * 1_000
        self._output.print(sequence_table(self._user, Kind.EXPLICIT, newest, settings.vocabulary))
        self._output.print(
            scores_table(self._user, after, title=f"The same candidates with the new action (offset {at.offset})")
        )
        self._figures.score_before, self._figures.score_after = float(before.score[last]), float(after.score[last])
        self._output.print(
            f"readable {self._figures.visible_ms:.1f} ms and scored {self._figures.scored_ms:.1f} ms after its "
            f"acknowledgement; the item's score went from {self._figures.score_before:.4f} to "
            f"{self._figures.score_after:.4f}"
        )

    def _summary(self) -> Panel:
        figures = self._figures
        rows = (
            ("actions published", f"{figures.actions:,} at {figures.actions / figures.publish_s:,.0f}/s"),
            ("applied by the node", f"{figures.events_per_s:,.0f} events/s, from assignment to lag 0"),
            ("on disk after ingest", f"{figures.disk_bytes / 1e6:.1f} MB with its write-ahead log"),
            ("a whole history", f"{figures.whole_events:,} events in {figures.whole_ms:.1f} ms over gRPC"),
            ("training", f"{figures.train_s:.0f} s"),
            ("restart of the node", f"{figures.restart_s:.1f} s"),
            ("acknowledged -> readable", f"{figures.visible_ms:.1f} ms"),
            ("acknowledged -> scored", f"{figures.scored_ms:.1f} ms"),
            ("the whole demo", f"{time.monotonic() - self._started:.0f} s"),
        )
        grid = Grid.grid(padding=(0, 3))
        for row in rows:
            grid.add_row(*row)
        return Panel(grid, title="Lifeline: the figures of this demo", border_style="green", expand=False)


def _metrics(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    # The name of a metric of a single head has a slash in it.
    return [(name, f"{value:,.4g}") for name, value in metrics.items() if "/" not in name]


def _candidates(history: History, user: str) -> list[int]:
    """Return eight items with embeddings: recent ones of the user, recently popular ones, and random ones."""
    rng = np.random.default_rng(0)
    embedded = set(history.embeddings.item_id.tolist())
    own = [item for item, actor in zip(history.item_id.tolist(), history.user_id, strict=True) if actor == user]
    recent = history.item_id[-_RECENT:].tolist()
    popular = [item for item, _ in Counter(recent).most_common(100)]
    random = rng.permutation(history.embeddings.item_id).tolist()
    candidates: dict[int, None] = {}
    for items, count in ((own[::-1], 3), (popular, 6), (random, _CANDIDATES)):
        for item in items:
            if len(candidates) < count and item in embedded:
                candidates.setdefault(item)
    return list(candidates)
