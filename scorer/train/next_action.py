"""The Next Action Loss: the encoder's output at a recent token predicts the embedding of the next action's item.

    L(u, t) = -log( exp<u_t, p_{t+1}> / ( exp<u_t, p_{t+1}> + sum_n exp<u_t, n> ) )

u_t is the projected output at position t of the newest real-time tokens, p_{t+1} the L2-normalised embedding
of the next of them with a positive action, and n are tokens of the user's impressions that were not engaged
with; where there are none, or by configuration, next actions of other users of the batch. The loss is the
mean over the positions that have a target and a negative. It exists in training alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.core.action_types import bits_of
from lifeline.core.embedding_codec import normalize
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import Tokens
from lifeline.scorer.selection import Source


@dataclass(frozen=True, slots=True)
class NextActions:
    """The positions of a row of a selection that are followed by a positive action."""

    user: int
    """The number of the user: in-batch negatives come from other users."""
    position: NDArray[np.int64]
    """int64[p]: columns of the row."""
    target: NDArray[np.float32]
    """float32[p, 32]: L2-normalised embedding of the next item."""
    ignored: NDArray[np.float32]
    """float32[m, 32]: L2-normalised embeddings of the user's impressions, those without one left out."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The targets of a batch, which are in-batch negatives for other users."""

    target: NDArray[np.float32]
    """float32[q, 32]."""
    user: NDArray[np.int64]
    """int64[q]: the number of each target's user."""

    @classmethod
    def of(cls, batch: Sequence[NextActions]) -> "Pool":
        """Return all targets of a batch."""
        users = [np.full(len(actions.target), actions.user, np.int64) for actions in batch]
        targets = [actions.target for actions in batch]
        return cls(np.concatenate([np.empty((0, 32), np.float32), *targets]), np.concatenate([_NO_USERS, *users]))


_NO_USERS = np.empty(0, np.int64)


def next_actions(
    user: int,
    tokens: Tokens,
    row: tuple[NDArray[np.integer], NDArray[np.uint8]],
    impressions: NDArray[np.int8],
    positive_types: Sequence[int],
) -> NextActions:
    """Return the targets of one row of a selection: its indices into `tokens`, and its sources.

    `impressions`, int8[m, 32], are those of the user; `positive_types` are ids of action types.
    """
    index, source = row
    column = np.flatnonzero(source == Source.RECENT)
    recent = tokens.take(index[column].astype(np.intp))
    positive = np.uint64(bits_of(positive_types))
    target = normalize(recent.embedding)
    engaged = (recent.action_types & positive != 0) & target.any(axis=1)
    places = np.where(engaged, np.arange(len(column)), len(column))
    following = np.minimum.accumulate(places[::-1])[::-1]
    following = np.append(following[1:], len(column))[: len(column)]
    has_target = following < len(column)
    ignored = normalize(impressions)
    return NextActions(user, column[has_target], target[following[has_target]], ignored[ignored.any(axis=1)])


def next_action_losses(
    projected: Tensor,
    batch: Sequence[NextActions],
    pool: Pool,
    config: ModelConfig,
    rngs: Sequence[np.random.Generator],
) -> Tensor:
    """Return the loss of every position that has one, float32[n], over float32[r, L, 32] projected outputs.

    Each row of the projected outputs has one of `batch`, and a generator of its own for its negatives.
    """
    losses = []
    for row, (actions, rng) in enumerate(zip(batch, rngs, strict=True)):
        negatives = actions.ignored
        if config.nal_source == "in_batch" or len(negatives) == 0:
            negatives = pool.target[pool.user != actions.user]
        if len(negatives) == 0 or len(actions.position) == 0:
            continue
        drawn = rng.integers(len(negatives), size=(len(actions.position), config.nal_negatives))
        u = projected[row, torch.from_numpy(actions.position)]
        positive_logit = (u * torch.from_numpy(actions.target)).sum(dim=1, keepdim=True)
        negative_logits = torch.einsum("pd,pnd->pn", u, torch.from_numpy(negatives[drawn]))
        losses.append(torch.cat([positive_logit, negative_logits], dim=1).logsumexp(dim=1) - positive_logit[:, 0])
    # Without losses, an empty slice keeps the graph connected: the gradients are zero.
    return torch.cat(losses) if losses else projected.reshape(-1)[:0]
