"""One user of 16,384 explicit tokens and 128 impressions in a store, 256 candidates, and a model of random weights."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.store.appends import fresh_store
from lifeline.core.actions import ActionBatch, pack_code
from lifeline.scorer.config import default_heads
from lifeline.scorer.evaluate.simulator import DAY_MS, START_MS, SimulatedUser, Simulator, SimulatorSettings
from lifeline.scorer.features import History, RequestContext
from lifeline.scorer.history_cache import HistoryCache
from lifeline.scorer.model import TransAct
from lifeline.scorer.variants import variant
from lifeline.scorer.weights import Manifest
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.reader import SequenceReader

CANDIDATES = 256
ACTIONS = 24_000
APART_MS = 31 * 60_000
"""Each action is in a visit of its own, so that no two become one token."""


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


@contextmanager
def open_world() -> Iterator[World]:
    """Give the world in a directory that goes with it."""
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
            _, history = HistoryCache(0).history(reader, user.user_id, config)
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
    timestamp_ms = START_MS + np.arange(len(events.item)) * APART_MS
    return ActionBatch(
        [user.user_id.encode()] * len(events.item),
        timestamp_ms,
        simulator.items.item_id[events.item],
        pack_code(events.action_type, events.surface),
        simulator.vocabulary.kind_of_type[events.action_type],
        timestamp_ms,
    )
