"""Scoring one request: history -> selection -> model -> probabilities, and one score a candidate."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lifeline.core.vocabulary import Vocabulary
from lifeline.scorer.backend import Backend, backend_of
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import History, RequestContext, Tokens
from lifeline.scorer.inputs import Pairs
from lifeline.scorer.selection import Selection
from lifeline.scorer.selection_log import LoggedRequest
from lifeline.scorer.weights import LoadedModel, Manifest, check_vocabulary


class Embeddings(Protocol):
    """The embedding table of candidates."""

    def lookup(self, item_id: NDArray[np.uint64]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Return int8[c, 32], zeros where unknown, and bool[c]: whether each is known."""
        ...


@dataclass(frozen=True, slots=True)
class Explanation:
    """The tokens that were selected for each candidate."""

    history: History
    selection: Selection
    """Its indices are rows of `history.tokens`."""
    contribution: NDArray[np.float32]
    """float32[c, L]: the score less what it is without the token; NaN where that was not asked for."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer for c candidates, in the order of the request."""

    heads: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """float32[c, heads]."""
    score: NDArray[np.float32]
    """float32[c]: the sum over heads of utility times probability."""
    embedding_known: NDArray[np.bool_]
    """bool[c]: whether the candidate has an embedding that is not zero."""
    selected: FeatureSnapshot
    """What the model read."""
    explanation: Explanation | None


class Scorer:
    """A loaded model over an embedding table. Any thread may call `score`."""

    def __init__(
        self, loaded: LoadedModel, vocabulary: Vocabulary, embeddings: Embeddings, backend: Backend | None = None
    ) -> None:
        """Score by a backend of the loaded model; without one by that of the processor in float32.

        Raises ModelMismatchError where the model was trained for another vocabulary, and KernelsError as `backend_of`
        does.
        """
        check_vocabulary(loaded.manifest, vocabulary)
        self._config = loaded.model.config
        self._backend = backend_of(loaded) if backend is None else backend
        self._embeddings = embeddings
        self._utility = np.array([head.utility for head in self._config.heads], np.float32)
        self._heads = tuple(head.name for head in self._config.heads)
        self.manifest: Manifest = loaded.manifest

    @property
    def kernels(self) -> str:
        """What encodes: the name of the backend."""
        return self._backend.name

    @property
    def config(self) -> ModelConfig:
        """What the model reads."""
        return self._config

    def logged(self, user_id: str, scores: Scores) -> LoggedRequest:
        """Return what the selected-token log keeps of an answer of this scorer."""
        name, version = self.manifest.name, self.manifest.version
        selecting = self._config.selecting
        return LoggedRequest(user_id, name, version, selecting, scores.selected, scores.probabilities)

    def score(
        self,
        history: History,
        candidate_ids: NDArray[np.uint64],
        context: RequestContext,
        *,
        candidate_embeddings: NDArray[np.int8] | None = None,
        explain: int | None = None,
    ) -> Scores:
        """Score uint64[c] candidates on a user's history.

        `candidate_embeddings`, int8[c, 32], stand in where the embedding table has none; zeros give none. An
        explanation tells the contribution of `explain` tokens of each candidate, the most similar; None: there is none.
        """
        config = self._config
        embedding, known = self._embeddings.lookup(candidate_ids)
        if candidate_embeddings is not None:
            embedding = np.where(known[:, np.newaxis], embedding, candidate_embeddings)
        selection = self._backend.select(history, embedding)
        selected, _ = FeatureSnapshot.of(history, candidate_ids, embedding, context, config, selection)
        own = selected.selection(selection.similarity)
        probabilities = self._probabilities(selected.tokens, own, selected.pairs)
        score = probabilities @ self._utility
        explanation = None
        if explain is not None:
            found = np.full(selection.index.shape, np.nan, np.float32)
            found[:, : own.index.shape[1]] = self._contributions(selected, own, score, explain)
            explanation = Explanation(history, selection, found)
        return Scores(self._heads, probabilities, score, np.any(embedding, axis=1), selected, explanation)

    def _probabilities(self, tokens: Tokens, selection: Selection, pairs: Pairs) -> NDArray[np.float32]:
        """Return float32[c, heads] of c pairs of one request, selected by rows of the tokens."""
        with torch.inference_mode():
            logits = self._backend.logits(tokens, selection, pairs)
            probabilities: NDArray[np.float32] = torch.sigmoid(logits).numpy()
        return probabilities

    def _contributions(
        self, selected: FeatureSnapshot, selection: Selection, score: NDArray[np.float32], most: int
    ) -> NDArray[np.float32]:
        """Return float32[c, L]: what scores lose without a token, for the most similar ones; NaN for the others."""
        made = np.full(selection.index.shape, np.nan, np.float32)
        there = selection.index >= 0
        # Descending by similarity; of equals the newer, which stands further right, comes first.
        order = np.argsort(np.where(there, -selection.similarity, np.inf)[:, ::-1], axis=1, kind="stable")
        column = selection.index.shape[1] - 1 - order[:, :most]
        row = np.repeat(np.arange(len(column)), column.shape[1])
        column = column.ravel()
        kept = there[row, column]
        row, column = row[kept], column[kept]
        if len(row):
            without = self._probabilities(selected.tokens, selection.without(row, column), selected.pairs.take(row))
            made[row, column] = score[row] - without @ self._utility
        return made
