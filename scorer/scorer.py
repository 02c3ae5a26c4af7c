"""Scoring one request: history -> selection -> model -> probabilities, and one score per candidate."""

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
        """Return int8[c, 32], zeros if unknown, and bool[c]: whether each is known."""
        ...


@dataclass(frozen=True, slots=True)
class Explanation:
    """The selected tokens of each candidate."""

    history: History
    selection: Selection
    """By rows of `history.tokens`."""
    contribution: NDArray[np.float32]
    """float32[c, L]: the score minus the score without the token; NaN if it was not requested."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer for c candidates, in the order of the request."""

    heads: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """float32[c, heads]."""
    score: NDArray[np.float32]
    """float32[c]: the sum over heads of utility times probability."""
    embedding_known: NDArray[np.bool_]
    """bool[c]: whether the candidate has a non-zero embedding."""
    snapshot: FeatureSnapshot
    """The inputs of the model."""
    explanation: Explanation | None


class Scorer:
    """A loaded model over an embedding table. Any thread may call `score`."""

    def __init__(
        self, loaded: LoadedModel, vocabulary: Vocabulary, embeddings: Embeddings, backend: Backend | None = None
    ) -> None:
        """Score with a backend of the loaded model, by default `backend_of(loaded)`.

        Raises ModelMismatchError if the model was trained for another vocabulary, and KernelsError as `backend_of`
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
        """The name of the backend."""
        return self._backend.name

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model."""
        return self._config

    def logged(self, user_id: str, scores: Scores) -> LoggedRequest:
        """Return the record of the selection log for an answer of this scorer."""
        name, version = self.manifest.name, self.manifest.version
        selection_settings = self._config.selection_settings
        return LoggedRequest(user_id, name, version, selection_settings, scores.snapshot, scores.probabilities)

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

        `candidate_embeddings`, int8[c, 32], are used for candidates that the embedding table does not know; zeros are
        no embedding. With `explain`, the explanation has the contributions of each candidate's `explain` limit similar
        tokens.
        """
        config = self._config
        embedding, known = self._embeddings.lookup(candidate_ids)
        if candidate_embeddings is not None:
            embedding = np.where(known[:, np.newaxis], embedding, candidate_embeddings)
        selection = self._backend.select(history, embedding)
        snapshot, _ = FeatureSnapshot.of(history, candidate_ids, embedding, context, config, selection)
        own = snapshot.selection(selection.similarity)
        probabilities = self._probabilities(snapshot.tokens, own, snapshot.pairs)
        score = probabilities @ self._utility
        explanation = None
        if explain is not None:
            contribution = np.full(selection.index.shape, np.nan, np.float32)
            contribution[:, : own.index.shape[1]] = self._contributions(snapshot, own, score, explain)
            explanation = Explanation(history, selection, contribution)
        return Scores(self._heads, probabilities, score, np.any(embedding, axis=1), snapshot, explanation)

    def _probabilities(self, tokens: Tokens, selection: Selection, pairs: Pairs) -> NDArray[np.float32]:
        """Return float32[c, heads] of c pairs of one request; the selection is by rows of the tokens."""
        with torch.inference_mode():
            logits = self._backend.logits(tokens, selection, pairs)
            probabilities: NDArray[np.float32] = torch.sigmoid(logits).numpy()
        return probabilities

    def _contributions(
        self, snapshot: FeatureSnapshot, selection: Selection, score: NDArray[np.float32], limit: int
    ) -> NDArray[np.float32]:
        """Return float32[c, L]: the score minus the score without the token, for the most similar; NaN for others."""
        contributions = np.full(selection.index.shape, np.nan, np.float32)
        is_token = selection.index >= 0
        # Descending by similarity; of equal similarities the newer, which is further right, comes first.
        order = np.argsort(np.where(is_token, -selection.similarity, np.inf)[:, ::-1], axis=1, kind="stable")
        column = selection.index.shape[1] - 1 - order[:, :limit]
        row = np.repeat(np.arange(len(column)), column.shape[1])
        column = column.ravel()
        is_selected = is_token[row, column]
        row, column = row[is_selected], column[is_selected]
        if len(row):
            without = self._probabilities(snapshot.tokens, selection.remove(row, column), snapshot.pairs.take(row))
            contributions[row, column] = score[row] - without @ self._utility
        return contributions
