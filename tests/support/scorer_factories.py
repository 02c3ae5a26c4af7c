"""Generated histories for the scorer's tests."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.core.actions import Kind
from lifeline.core.sequence import Sequence
from lifeline.core.vocabulary import Vocabulary
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import History, RequestContext, Tokens
from lifeline.scorer.inputs import Inputs
from lifeline.scorer.model import TransAct
from lifeline.scorer.selection import Selection
from lifeline.scorer.sequence_encoder import SequenceEncoder
from lifeline.scorer.weights import LoadedModel, Manifest

VOCABULARY = Vocabulary()
HEADS = default_heads(VOCABULARY)
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

SMALL = ModelConfig(
    heads=HEADS,
    real_time_length=6,
    impression_length=5,
    lifelong_selected=4,
    recent_kept=3,
    real_time_selected=2,
    impressions_selected=2,
    read_out=16,
    mlp=(16,),
)


def embeddings(rng: np.random.Generator, count: int) -> NDArray[np.int8]:
    """Return int8[count, 32] rows, none of them zero."""
    rows = rng.integers(-127, 128, (count, 32)).astype(np.int8)
    rows[:, 0] = 1
    return rows


def tokens(rng: np.random.Generator, count: int, *, unknown: float = 0.1) -> Tokens:
    """Return tokens of random items, some of them without an embedding."""
    embedding = embeddings(rng, count)
    embedding[rng.random(count) < unknown] = 0
    return Tokens(
        np.sort(rng.integers(0, 1000 * DAY, count)),
        rng.integers(0, 1 << 63, count).astype(np.uint64),
        rng.integers(1, 16, count).astype(np.uint64),
        rng.integers(0, 4, count).astype(np.uint8),
        embedding,
    )


def history(rng: np.random.Generator, explicit: int, impressions: int, config: ModelConfig = SMALL) -> History:
    """Return a history of so many tokens."""
    return History.of(tokens(rng, explicit), tokens(rng, impressions), config)


def sequence(
    rows: list[tuple[int, int, int, int]], embedding: Mapping[int, NDArray[np.int8]] | None = None
) -> Sequence:
    """Return a sequence of (timestamp_ms, item, action type, surface) rows, sorted here."""
    rows = sorted(rows)
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    vectors = np.zeros((len(rows), 32), np.int8)
    for number, row in enumerate(rows):
        if embedding is not None and row[1] in embedding:
            vectors[number] = embedding[row[1]]
    return Sequence(
        len(rows),
        len(rows),
        columns[0],
        columns[1].astype(np.uint64),
        columns[2].astype(np.uint8),
        columns[3].astype(np.uint8),
        vectors,
    )


def rows_of(events: Sequence) -> list[tuple[int, int, int, int]]:
    """Return a sequence's (timestamp_ms, item, action type, surface) rows."""
    columns = (events.timestamp_ms, events.item_id, events.action_type, events.surface)
    lists = [column.tolist() for column in columns if column is not None]
    return list(zip(*lists, strict=True))


def vectors_of(histories: Iterable[Mapping[Kind, Sequence]]) -> dict[int, NDArray[np.int8]]:
    """Return the embedding of every item in some histories."""
    table: dict[int, NDArray[np.int8]] = {}
    for sequences in histories:
        for events in sequences.values():
            if events.item_id is not None and events.embedding is not None:
                table |= dict(zip(events.item_id.tolist(), events.embedding, strict=True))
    return table


def visits_history(
    rng: np.random.Generator,
    table: NDArray[np.int8],
    taste: NDArray[np.intp],
    visits: int,
    until: int | None = None,
) -> dict[Kind, Sequence]:
    """Return one user's visits: acts on items of `taste`, impressions of any; events before `until` alone."""
    explicit, shown = [], []
    for start in np.sort(rng.choice(400, visits, replace=False)) * DAY:
        for number in range(int(rng.integers(1, 4))):
            at = int(start) + number * MINUTE
            explicit.append((at, int(rng.choice(taste)), int(rng.integers(1, 4)), 1))
            shown.append((at + 1, int(rng.integers(len(table))), 5, 1))
    if until is not None:
        explicit, shown = ([row for row in rows if row[0] < until] for rows in (explicit, shown))
    vectors = dict(enumerate(table))
    return {Kind.EXPLICIT: sequence(explicit, vectors), Kind.IMPRESSION: sequence(shown, vectors)}


def population(seed: int, users: int = 12, visits: int = 30, until: int | None = None) -> list[dict[Kind, Sequence]]:
    """Return users who each keep to one of four clusters of items."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 32))
    table = np.repeat(centres, 20, axis=0) + 0.5 * rng.normal(size=(80, 32))
    quantized = np.clip(np.rint(table * 30), -127, 127).astype(np.int8)
    return [visits_history(rng, quantized, np.arange(20) + 20 * (user % 4), visits, until) for user in range(users)]


def loaded(model: TransAct, vocabulary: Vocabulary = VOCABULARY) -> LoadedModel:
    """Return a model as if it had been loaded from disk."""
    manifest = Manifest(
        name="made",
        version="1",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        config=model.config,
        vocabulary=vocabulary,
        weights_sha256="0" * 64,
    )
    return LoadedModel(model.eval(), manifest)


def assert_same_selection(found: Selection, expected: Selection) -> None:
    """Compare to the bit."""
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.source, expected.source)
    # Minus zero is not zero here.
    np.testing.assert_array_equal(found.similarity.view(np.uint32), expected.similarity.view(np.uint32))
    for name in ("index", "valid", "source", "similarity"):
        assert getattr(found, name).dtype == getattr(expected, name).dtype


@dataclass(frozen=True)
class Encoding:
    """A request of c candidates, selected, and a model of random weights that is to encode it."""

    model: TransAct
    request: FeatureSnapshot
    selection: Selection
    """By rows of the request's tokens."""

    @property
    def inputs(self) -> Inputs:
        """What the model reads."""
        return self.request.inputs(self.selection)

    def by(self, model: TransAct) -> list[Tensor]:
        """Return what PyTorch gives the cross."""
        with torch.inference_mode():
            return model.sequence(self.inputs, model.encode(self.inputs))

    def parts(self, encoder: SequenceEncoder | None) -> list[Tensor]:
        """Return what an encoder gives the cross."""
        assert encoder is not None
        request = self.request
        with torch.inference_mode():
            return encoder.parts(request.tokens, self.selection, request.embedding, request.context.timestamp_ms)


def encoding(
    config: ModelConfig, explicit: int, impressions: int, count: int, *, model: TransAct | None = None, seed: int = 0
) -> Encoding:
    """Return a request of so many tokens and candidates, the middle one without an embedding."""
    rng = np.random.default_rng([seed, explicit, impressions, count])
    torch.manual_seed(seed)
    inputs, candidates = history(rng, explicit, impressions, config), embeddings(rng, count)
    candidates[count // 2] = 0
    items, context = np.arange(count, dtype=np.uint64), RequestContext(1_001 * DAY, 1)
    request, found = FeatureSnapshot.of(inputs, items, candidates, context, config)
    return Encoding(model or TransAct(config).eval(), request, request.selection(found.similarity))
