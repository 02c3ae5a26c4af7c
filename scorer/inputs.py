"""Inputs of the model for (request, candidate) pairs, as tensors."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.core.embedding_codec import normalize
from lifeline.scorer.features import Tokens
from lifeline.scorer.selection import Selection


@dataclass(frozen=True, slots=True)
class Pairs:
    """The features of b (request, candidate) pairs that do not depend on the tokens."""

    embedding: NDArray[np.int8]
    """int8[b, 32]: of the candidate; zeros if unknown."""
    timestamp_ms: NDArray[np.int64]
    """int64[b]: time of the request."""
    context: NDArray[np.float32]
    """float32[b, ModelConfig.context_features]: from `scorer.features.context`."""
    surface: NDArray[np.uint8]
    """uint8[b]: id of the surface where the candidate will be shown."""

    def take(self, rows: NDArray[np.integer]) -> Self:
        """Return the pairs at `rows`."""
        return type(self)(self.embedding[rows], self.timestamp_ms[rows], self.context[rows], self.surface[rows])


class PairInputs(NamedTuple):
    """The part of `Inputs` that does not depend on the tokens."""

    candidate: Tensor
    context: Tensor
    context_surface: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> Self:
        """Convert pairs to tensors."""
        return cls(
            torch.from_numpy(normalize(pairs.embedding)),
            torch.from_numpy(pairs.context),
            torch.from_numpy(pairs.surface.astype(np.int64)),
        )


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of b (request, candidate) pairs over one table of n tokens."""

    embedding: Tensor
    """float32[n, 32]: L2-normalised item embeddings of the tokens; zeros if unknown."""
    action_types: Tensor
    """int64[n]: bit `id - 1` for each action type of the token."""
    surface: Tensor
    """int64[n]: the surface of the token."""
    index: Tensor
    """int64[b, L]: rows of the selected tokens; -1 for the neutral token and for padding."""
    valid: Tensor
    """bool[b, L]: False for padding, which is on the right; position 0 is always valid."""
    source: Tensor
    """uint8[b, L]: the block of each token, a `scorer.selection.Source`."""
    similarity: Tensor
    """float32[b, L]: cosine of token and candidate; 0 if either embedding is unknown."""
    age_s: Tensor
    """float32[b, L]: seconds from the token to the request, at least 0; 0 if the index is -1."""
    candidate: Tensor
    """float32[b, 32]: L2-normalised embedding of the candidate; zeros if unknown."""
    context: Tensor
    """float32[b, ModelConfig.context_features]."""
    context_surface: Tensor
    """int64[b]: id of the surface where the candidate will be shown."""

    @classmethod
    def of(cls, tokens: Tokens, selection: Selection, pairs: Pairs) -> Self:
        """Convert tokens, a selection and pairs to tensors."""
        candidate, context, context_surface = PairInputs.of(pairs)
        selected = selection.index >= 0
        token_ms = tokens.timestamp_ms[selection.index] if len(tokens) else np.zeros(selected.shape, np.int64)
        age_ms = np.where(selected, pairs.timestamp_ms[:, np.newaxis] - token_ms, 0)
        return cls(
            embedding=torch.from_numpy(normalize(tokens.embedding)),
            action_types=torch.from_numpy(tokens.action_types.view(np.int64)),
            surface=torch.from_numpy(tokens.surface.astype(np.int64)),
            index=torch.from_numpy(selection.index),
            valid=torch.from_numpy(selection.valid),
            source=torch.from_numpy(selection.source),
            similarity=torch.from_numpy(selection.similarity),
            age_s=torch.from_numpy(np.maximum(age_ms, 0) / np.float32(1000)).float(),
            candidate=candidate,
            context=context,
            context_surface=context_surface,
        )

    @property
    def pairs(self) -> PairInputs:
        """The inputs that do not depend on the tokens."""
        return PairInputs(self.candidate, self.context, self.context_surface)
