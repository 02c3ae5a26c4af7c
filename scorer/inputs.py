"""Inputs: what the model reads for (request, candidate) pairs, as tensors."""

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
    """What belongs to each of b (request, candidate) pairs, whatever the history."""

    embedding: NDArray[np.int8]
    """int8[b, 32]: of the candidate; zeros where it is not known."""
    timestamp_ms: NDArray[np.int64]
    """int64[b]: when the request was made."""
    context: NDArray[np.float32]
    """float32[b, ModelConfig.context_features]: as `scorer.features.context` gives them."""
    surface: NDArray[np.uint8]
    """uint8[b]: where the candidate will be shown."""

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
        """Return the model's form of pairs."""
        return cls(
            torch.from_numpy(normalize(pairs.embedding)),
            torch.from_numpy(pairs.context),
            torch.from_numpy(pairs.surface.astype(np.int64)),
        )


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model reads for b (request, candidate) pairs over one table of n tokens."""

    embedding: Tensor
    """float32[n, 32]: L2-normalised item embeddings of the tokens; zeros where unknown."""
    action_types: Tensor
    """int64[n]: bit `id - 1` for each action type of the token."""
    surface: Tensor
    """int64[n]: the surface of the token."""
    index: Tensor
    """int64[b, L]: the selected tokens; -1 is the neutral token, and padding."""
    valid: Tensor
    """bool[b, L]: not padding. Padding stands on the right and position 0 is valid."""
    source: Tensor
    """uint8[b, L]: the block of each token, a `scorer.selection.Source`."""
    similarity: Tensor
    """float32[b, L]: cosine of token and candidate; 0 where either embedding is not known."""
    age_s: Tensor
    """float32[b, L]: seconds from the token to the request, 0 at least; 0 where the index is -1."""
    candidate: Tensor
    """float32[b, 32]: L2-normalised embedding of the candidate; zeros where unknown."""
    context: Tensor
    """float32[b, ModelConfig.context_features]."""
    context_surface: Tensor
    """int64[b]: where the candidate will be shown."""

    @classmethod
    def of(cls, tokens: Tokens, selection: Selection, pairs: Pairs) -> Self:
        """Return the model's form of what `scorer.features` and `scorer.selection` give."""
        candidate, context, context_surface = PairInputs.of(pairs)
        selected = selection.index >= 0
        made_ms = tokens.timestamp_ms[selection.index] if len(tokens) else np.zeros(selected.shape, np.int64)
        age_ms = np.where(selected, pairs.timestamp_ms[:, np.newaxis] - made_ms, 0)
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
        """What does not depend on the tokens."""
        return PairInputs(self.candidate, self.context, self.context_surface)
