"""Feature snapshots: all that the model reads of one request, without the rest of the history.

Serving, training and the selection log use the same form, so that a model is trained on what it reads in serving.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lifeline.scorer import features
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import History, RequestContext, Tokens
from lifeline.scorer.inputs import Inputs, Pairs
from lifeline.scorer.selection import Selection, restore, select


@dataclass(frozen=True, slots=True)
class FeatureSnapshot:
    """One request with c candidates, selected to length L."""

    context: RequestContext
    item_id: NDArray[np.uint64]
    """uint64[c]: the candidates."""
    embedding: NDArray[np.int8]
    """int8[c, 32]: embeddings of the candidates; zeros if unknown."""
    features: NDArray[np.float32]
    """float32[c, ModelConfig.context_features]: from `scorer.features.context`."""
    tokens: Tokens
    """The explicit tokens selected for any candidate, then all of S_imp, which the Next Action Loss samples."""
    impressions: int
    """Number of the last tokens that are S_imp."""
    index: NDArray[np.int32]
    """int32[c, L]: rows of `tokens`; -1 for the neutral token and for padding."""
    source: NDArray[np.uint8]
    """uint8[c, L]: `scorer.selection.Source`."""

    @classmethod
    def of(
        cls,
        history: History,
        item_id: NDArray[np.uint64],
        embedding: NDArray[np.int8],
        context: RequestContext,
        config: ModelConfig,
        selection: Selection | None = None,
    ) -> tuple[Self, Selection]:
        """Select for candidates, uint64[c] and int8[c, 32]; returns also the selection, by rows of `history.tokens`.

        `selection` is used instead of a new one.
        """
        selection = selection or select(history, embedding, config)
        # New rows by a cumulative sum of marks, without a sort. The neutral token, -1, is the last mark.
        marks = np.zeros(len(history.explicit) + len(history.impressions) + 1, np.bool_)
        marks[selection.index] = True
        marks[len(history.explicit) : -1] = True
        marks[-1] = False
        place = np.cumsum(marks, dtype=np.int32)
        place -= 1
        place[-1] = -1
        index = place.take(selection.index)
        explicit = np.flatnonzero(marks[: len(history.explicit)])
        snapshot = cls(
            context,
            item_id,
            embedding,
            features.context(history.explicit, item_id, context, config),
            Tokens.concatenate([history.explicit.take(explicit), history.impressions]),
            len(history.impressions),
            index,
            selection.source,
        )
        return snapshot, selection

    @property
    def pairs(self) -> Pairs:
        """The features of each candidate that do not depend on the tokens."""
        count = len(self.item_id)
        return Pairs(
            self.embedding,
            np.full(count, self.context.timestamp_ms),
            self.features,
            np.full(count, self.context.surface, np.uint8),
        )

    def selection(self, similarity: NDArray[np.float32] | None = None) -> Selection:
        """Return the trimmed selection by rows of `tokens`; without `similarity`, float32[c, L], it is computed."""
        index = self.index.astype(np.int64)
        return restore(index, self.source, self.embedding, self.tokens.embedding, similarity)

    def inputs(self, selection: Selection) -> Inputs:
        """Return what the model reads; `selection` is the request's own."""
        return Inputs.of(self.tokens, selection, self.pairs)
