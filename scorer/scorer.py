"""Scoring one request: history -> selection -> model -> probabilities, and one score a candidate."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lifeline.core.vocabulary import Vocabulary
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import PrecisionError
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import History, RequestContext, Tokens
from lifeline.scorer.gpu.device import on_gpu
from lifeline.scorer.inputs import Pairs
from lifeline.scorer.kernels.library import Level, chosen_level
from lifeline.scorer.native import NativeHeads, NativeSequence, SequenceModule, logits
from lifeline.scorer.selection import Selection, select
from lifeline.scorer.selection_log import LoggedRequest
from lifeline.scorer.settings import Device, KernelPrecision
from lifeline.scorer.weights import LoadedModel, Manifest, check_vocabulary


class Embeddings(Protocol):
    """Where embeddings of candidates come from."""

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
    """A loaded model over an embedding table. `score` may be called from any thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        vocabulary: Vocabulary,
        embeddings: Embeddings,
        precision: KernelPrecision = "float32",
        threads: int | None = None,
        device: Device = "cpu",
    ) -> None:
        """Prepare the kernels, where they can be had, for products of a precision and so many threads a request.

        Without `threads` as many as torch has, with which the rest is computed in any case. On a GPU kernels of its
        own select and encode, and int8 is bfloat16. Raises ModelMismatchError where the model was trained for another
        vocabulary, KernelsError where the device, or what LIFELINE_KERNELS forces, cannot be had, and PrecisionError
        where the version was not accepted in int8.
        """
        check_vocabulary(loaded.manifest, vocabulary)
        self._model = loaded.model
        config = loaded.model.config
        self._native: SequenceModule | None
        self._native_heads: NativeHeads | None = None
        self._select: Callable[[History, NDArray[np.int8]], Selection]
        self.kernels: str
        """What selects and encodes."""
        if precision == "int8" and loaded.calibration is None:
            raise PrecisionError(
                f"{loaded.manifest.name}/{loaded.manifest.version} is not accepted in int8: run lifeline quantize, or "
                "set scorer.precision to auto"
            )
        gpu = on_gpu(loaded.model, device, "float32" if precision == "float32" else "bfloat16")
        if gpu is not None:
            self._select, self._native, self.kernels = gpu.select, gpu.sequence, "cuda"
        else:
            level = min(chosen_level(), Level.AVX512) if precision == "float32" else chosen_level()
            calibration = None
            if precision == "int8" and level is Level.BF16:
                level, calibration = Level.INT8, loaded.calibration
            self._select = partial(select, config=config, threads=threads)
            self._native = NativeSequence.of(loaded.model, level, threads, calibration)
            self._native_heads = NativeHeads.of(loaded.model, level, threads)
            self.kernels = (Level.TORCH if self._native is None else level).name.lower()
        self._embeddings = embeddings
        self._utility = np.array([head.utility for head in config.heads], np.float32)
        self._heads = tuple(head.name for head in config.heads)
        self.manifest: Manifest = loaded.manifest

    @property
    def config(self) -> ModelConfig:
        """What the model reads."""
        return self._model.config

    def logged(self, user_id: str, scores: Scores) -> LoggedRequest:
        """Return what the selected-token log keeps of an answer of this scorer."""
        name, version = self.manifest.name, self.manifest.version
        selecting = self._model.config.selecting
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
        config = self._model.config
        embedding, known = self._embeddings.lookup(candidate_ids)
        if candidate_embeddings is not None:
            embedding = np.where(known[:, np.newaxis], embedding, candidate_embeddings)
        selection = self._select(history, embedding)
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
            found = logits(self._model, self._native, tokens, selection, pairs, self._native_heads)
            probabilities: NDArray[np.float32] = torch.sigmoid(found).numpy()
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
