"""Scoring: selection, encoder, and a whole request in process, beside the same work in PyTorch and NumPy.

One user of 16,384 explicit events and 128 impressions, 256 candidates, TransActV2 with random weights, all cores. On a
processor without AVX-512 the bars do not apply; the notes say which kernels ran.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.report import Bar, Report, Row
from benchmarks.store.appends import fresh_store
from lifeline.cli.console import err
from scorer import features
from scorer.config import default_heads
from scorer.evaluate.simulator import DAY_MS, START_MS, SimulatedUser, Simulator, SimulatorSettings
from scorer.features import History, RequestContext
from scorer.inputs import Inputs
from scorer.kernels.library import VARIABLE, Level, best_level
from scorer.model import TransAct
from scorer.native import NativeSequence
from scorer.scorer import Scorer
from scorer.selected import SelectedRequest
from scorer.selection import cosines, select
from scorer.variants import variant
from scorer.weights import LoadedModel, Manifest
from store.actions import ActionBatch, Kind, pack_code
from store.embeddings import EmbeddingTable
from store.reader import SequenceReader
from store.sequence import Column, SequenceQuery

CANDIDATES = 256
ACTIONS = 24_000
REPEATS, SLOW_REPEATS, REQUESTS = 31, 7, 100
_APART_MS = 31 * 60_000
_QUERY = SequenceQuery(kinds=(Kind.EXPLICIT, Kind.IMPRESSION), columns=Column.ALL)


class World(NamedTuple):
    """One user in a store, and what is asked."""

    reader: SequenceReader
    embeddings: EmbeddingTable
    user_id: str
    history: History
    candidates: np.ndarray
    """uint64[256]."""
    embedding: np.ndarray
    """int8[256, 32]."""
    context: RequestContext
    model: TransAct
    manifest: Manifest


def run(bootstrap_servers: str | None, parts: Sequence[str] = ()) -> Report:
    """Run all parts, or those that are named; no broker is needed."""
    del bootstrap_servers
    notes = [f"kernels: {best_level().name.lower()}, {torch.get_num_threads()} threads"]
    rows: list[Row] = []
    with _world() as world:
        notes.append(f"{len(world.history.explicit):,} explicit tokens, {len(world.history.impressions)} impressions")
        for name in parts or PARTS:
            err.print(f"{time.strftime('%H:%M:%S')} {name}", highlight=False)
            rows += PARTS[name](world, notes)
    return Report("score", rows, tuple(notes))


def _selection(world: World, notes: list[str]) -> list[Row]:
    del notes
    config = world.model.config
    every = np.concatenate([world.history.explicit.embedding, world.history.impressions.embedding])
    rows, tokens = (torch.from_numpy(side).float() for side in (world.embedding, every))

    def by_torch() -> None:
        (rows @ tokens.T).topk(config.lifelong_selected, dim=1)

    def by_numpy() -> None:
        np.argpartition(cosines(world.embedding, every), -config.lifelong_selected, axis=1)

    peers = {"torch mm + topk ms": _median_ms(by_torch, SLOW_REPEATS), "numpy ms": _median_ms(by_numpy, SLOW_REPEATS)}
    ms = _median_ms(lambda: select(world.history, world.embedding, config), REPEATS)
    return [Row("selection_ms", ms, "ms", Bar("<=", 1.5), peers)]


def _encoder(world: World, notes: list[str]) -> list[Row]:
    request, selection = SelectedRequest.of(
        world.history, world.candidates, world.embedding, world.context, world.model.config
    )
    own = request.selection(selection.similarity)
    inputs = request.inputs(own)
    notes.append(f"encoder: {CANDIDATES} candidates x {own.index.shape[1]} tokens")
    with torch.inference_mode():
        eager = _median_ms(lambda: _sequence(world.model, inputs), SLOW_REPEATS)
    rows = [Row("encoder_eager_sdpa_fp32_ms", eager, "ms")]
    for name, level, most, ratio in (("fp32", Level.AVX512, 25.0, 4.0), ("bf16", Level.BF16, 12.5, 7.5)):
        if level > best_level():
            continue
        native = NativeSequence.of(world.model, level)
        if native is None:
            continue
        work = partial(native.parts, request.tokens, own, world.embedding, world.context.timestamp_ms)
        ms = _median_ms(work, REPEATS)
        rows.append(Row(f"encoder_{name}_ms", ms, "ms", Bar("<=", most), {"eager SDPA fp32 ms": eager}))
        rows.append(Row(f"encoder_{name}_x_sdpa", eager / ms, "x", Bar(">=", ratio)))
    return rows


def _request(world: World, notes: list[str]) -> list[Row]:
    del notes
    rows = []
    loaded = LoadedModel(world.model, world.manifest)
    with _forced("torch"):
        eager = Scorer(loaded, world.manifest.vocabulary, world.embeddings)
        slow = _latencies(world, eager, SLOW_REPEATS)
    scorer = Scorer(loaded, world.manifest.vocabulary, world.embeddings, "bfloat16")
    times = _latencies(world, scorer, REQUESTS)
    p50, p99 = (float(np.quantile(times, share)) for share in (0.5, 0.99))
    peer = {"eager PyTorch ms": float(np.median(slow))}
    rows.append(Row("score_256_p50_ms", p50, "ms", Bar("<=", 18.0), peer))
    rows.append(Row("score_256_p99_ms", p99, "ms", Bar("<=", 30.0)))
    rows.append(Row("score_256_x_eager", float(np.median(slow)) / p50, "x", Bar(">=", 6.0)))
    return rows


def _latencies(world: World, scorer: Scorer, count: int) -> list[float]:
    """Return the milliseconds of whole requests: read, select, encode, cross and heads."""
    found = []
    for _ in range(count + 2):
        begun = time.perf_counter()
        scorer.score(world.reader.read(world.user_id, _QUERY), world.candidates, world.context)
        found.append((time.perf_counter() - begun) * 1_000)
    return found[2:]


def _sequence(model: TransAct, inputs: Inputs) -> None:
    model.sequence(inputs, model.encode(inputs))


def _median_ms(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        work()
        times.append((time.perf_counter() - begun) * 1_000)
    return float(np.median(times[2:]))


@contextmanager
def _forced(implementation: str) -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = implementation
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@contextmanager
def _world() -> Iterator[World]:
    simulator = Simulator(SimulatorSettings(users=1, min_actions=ACTIONS, max_actions=ACTIONS))
    user = simulator.user(0)
    torch.manual_seed(0)
    config = variant("v2", default_heads(simulator.vocabulary))
    model = TransAct(config).eval()
    manifest = Manifest(
        name="bench",
        version="1",
        created_at=datetime.now(UTC),
        config=config,
        vocabulary=simulator.vocabulary,
        weights_sha256="0" * 64,
    )
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(simulator.items.item_id), CANDIDATES, replace=False)
    with fresh_store() as store, tempfile.TemporaryDirectory(prefix="lifeline-bench-") as place:
        embeddings = EmbeddingTable.open(Path(place))
        try:
            items = simulator.items
            versions = np.ones(len(items.item_id), np.uint32)
            embeddings.apply(items.item_id, items.embedding, versions, partition=0, offset=0)
            store.apply(_batch(simulator, user), offset=0)
            reader = SequenceReader(store, embeddings)
            history = features.read_history(reader.read(user.user_id, _QUERY).sequences, config)
            yield World(
                reader,
                embeddings,
                user.user_id,
                history,
                items.item_id[chosen],
                items.embedding[chosen],
                RequestContext(START_MS + 1_000 * DAY_MS, 1),
                model,
                manifest,
            )
        finally:
            embeddings.close()


def _batch(simulator: Simulator, user: SimulatedUser) -> ActionBatch:
    events = user.events
    return ActionBatch(
        [user.user_id.encode()] * len(events.item),
        # Each in a visit of its own, so that no two become one token.
        START_MS + np.arange(len(events.item)) * _APART_MS,
        simulator.items.item_id[events.item],
        pack_code(events.action_type, events.surface),
        simulator.vocabulary.kind_of_type[events.action_type],
    )


PARTS = {"selection": _selection, "encoder": _encoder, "request": _request}
