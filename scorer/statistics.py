"""Selection statistics: what the similarities of the selected tokens alone tell, without an encoder.

The selection has the cosines anyway. Of explicit tokens and of impressions they say how near the nearest are, how many
are near, which actions and which ages the near ones have, and when the newest near one was. A cosine below 0 counts
as 0, and so does a token that is not there.
"""

import torch
from torch import Tensor

from scorer.config import Head
from scorer.inputs import Inputs
from scorer.selection import Source

_TOPS = (1, 8, 64)
_NEAR, _SHARP = 0.4, 16.0
"""Where a token begins to count as near, and how sharply it does."""
_DAY_S = 86_400.0
_AGES_S = (_DAY_S, 7 * _DAY_S, 30 * _DAY_S, 90 * _DAY_S)
_LOG_OLDEST = 21.0
"""Logarithm of about forty years in seconds."""
_KINDS = 2
"""Explicit tokens, and impressions."""


def statistics_count(heads: int) -> int:
    """Return how many columns `selection_statistics` gives for a model with so many heads."""
    return _KINDS * (len(_TOPS) + 2 + len(_AGES_S)) + len(_AGES_S) + 2 * heads


def selection_statistics(inputs: Inputs, heads: tuple[Head, ...]) -> Tensor:
    """Return float32[b, statistics_count].

    Of explicit tokens, then of impressions: the mean of the 1, 8 and 64 greatest cosines, the logarithm of how many are
    near, in all and among those of the last day, week, month and quarter, and how recent the newest near one is (1 now,
    falling with the logarithm of its age, 0 for none). Then of explicit tokens, weighted by nearness: the share of each
    of those ages, and of each head's actions; and the logarithm of how many near ones have such an action.
    """
    cosine = inputs.similarity.clamp(min=0)
    nearness = torch.sigmoid(_SHARP * (cosine - _NEAR))
    recency = 1 - inputs.age_s.log1p() / _LOG_OLDEST
    impression = inputs.source == int(Source.IMPRESSION)
    explicit = inputs.valid & ~impression & (inputs.source != int(Source.NONE))
    young = [inputs.age_s < limit for limit in _AGES_S]
    columns = []
    for group in (explicit, impression):
        greatest = (cosine * group).topk(min(_TOPS[-1], cosine.shape[1]), dim=1).values
        columns += [greatest[:, :count].sum(dim=1) / count for count in _TOPS]
        near = nearness * group
        columns.append(near.sum(dim=1).log1p())
        columns += [(near * one).sum(dim=1).log1p() for one in young]
        columns.append((recency * near).amax(dim=1))
    weight = torch.softmax((_SHARP * cosine).masked_fill(~explicit, -torch.inf), dim=1).nan_to_num()
    columns += [(weight * one).sum(dim=1) for one in young]
    types = torch.cat([inputs.action_types, inputs.action_types.new_zeros(1)])[inputs.index]
    for head in heads:
        acted = types & _mask(head) != 0
        columns += [(weight * acted).sum(dim=1), (nearness * (explicit & acted)).sum(dim=1).log1p()]
    return torch.stack(columns, dim=1)


def _mask(head: Head) -> int:
    bits = sum(1 << (number - 1) for number in head.action_types)
    # As the signed number of the same 64 bits.
    return bits - (1 << 64) if bits >> 63 else bits
