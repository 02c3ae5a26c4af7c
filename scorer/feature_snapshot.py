"""A selected request: all that the model reads of one request, without the rest of the history.

It is what serving gives the model, what training keeps of a history, and what is logged: one form for the three, so
that a model that was trained reads what it will be served.
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
    """int8[c, 32]: theirs; zeros where it is not known."""
    features: NDArray[np.float32]
    """float32[c, ModelConfig.context_features]: as `scorer.features.context` gives them."""
    tokens: Tokens
    """Those that were selected for any candidate, then all of S_imp: the Next Action Loss draws among them."""
    impressions: int
    """How many of the tokens, the last ones, are S_imp."""
    index: NDArray[np.int32]
    """int32[c, L]: rows of the tokens; -1 is the neutral token, and padding."""
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
        """Select for candidates, uint64[c] and int8[c, 32]; returns the selection by the history's own rows as well.

        `selection` is that one, where it was made before.
        """
        selection = selection or select(history, embedding, config)
        # By marks and a table of places, which costs no sort. The neutral token, -1, is the row behind the last.
        kept = np.zeros(len(history.explicit) + len(history.impressions) + 1, np.bool_)
        kept[selection.index] = True
        kept[len(history.explicit) : -1] = True
        kept[-1] = False
        place = np.cumsum(kept, dtype=np.int32)
        place -= 1
        place[-1] = -1
        index = place.take(selection.index)
        explicit = np.flatnonzero(kept[: len(history.explicit)])
        made = cls(
            context,
            item_id,
            embedding,
            features.context(history.explicit, item_id, context, config),
            Tokens.concatenate([history.explicit.take(explicit), history.impressions]),
            len(history.impressions),
            index,
            selection.source,
        )
        return made, selection

    @property
    def pairs(self) -> Pairs:
        """What belongs to each candidate, whatever the history."""
        count = len(self.item_id)
        return Pairs(
            self.embedding,
            np.full(count, self.context.timestamp_ms),
            self.features,
            np.full(count, self.context.surface, np.uint8),
        )

    def selection(self, similarity: NDArray[np.float32] | None = None) -> Selection:
        """Return the trimmed selection by rows of `tokens`; `similarity`, float32[c, L], where it is at hand."""
        index = self.index.astype(np.int64)
        return restore(index, self.source, self.embedding, self.tokens.embedding, similarity)

    def inputs(self, selection: Selection) -> Inputs:
        """Return what the model reads; `selection` is the request's own."""
        return Inputs.of(self.tokens, selection, self.pairs)
