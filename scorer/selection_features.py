"""Selection statistics: features of the selected tokens' similarities, without an encoder.

`few` are six: of explicit tokens, the greatest cosine and the means of the 8 and the 64 greatest; the mean of the 8
greatest of impressions; the same of tokens with an action of negative utility; and the recency of the newest near
token. `all` adds the number of near tokens, by age and among the newest, and their actions. A cosine below 0 and a
missing token count as 0.
"""

from typing import Literal

import torch
from torch import Tensor

from lifeline.core.action_types import bits_of
from lifeline.scorer.config import Head
from lifeline.scorer.inputs import Inputs
from lifeline.scorer.selection import Source

Statistics = Literal["none", "few", "all"]
_TOPS = (1, 8, 64)
_NEAR, _SHARP = 0.4, 16.0
"""Midpoint and slope of the sigmoid that defines nearness."""
_DAY_S = 86_400.0
_AGES_S = tuple(days * _DAY_S for days in (1, 3, 7, 14, 30, 60, 120))
_NEWEST = (8, 20, 64)
_LOG_OLDEST = 21.0
"""Logarithm of about forty years in seconds."""


def statistics_count(which: Statistics, heads: int) -> int:
    """Return how many columns `selection_statistics` gives for a model with this number of heads."""
    many = 2 * (1 + len(_AGES_S)) + len(_NEWEST) + len(_AGES_S) + 2 * heads + 1
    return {"none": 0, "few": 6, "all": 6 + many}[which]


def selection_statistics(inputs: Inputs, which: Statistics, heads: tuple[Head, ...]) -> Tensor:
    """Return float32[b, statistics_count].

    First the few. Then of explicit tokens, and of impressions: the logarithm of how many are near, in all and among
    those of the last 1, 3, 7, 14, 30, 60 and 120 days. Then of explicit tokens: the share of the newest 8, 20 and 64
    that is near; weighted by nearness, the share of each of those ages and of each head's actions; and the logarithm of
    how many near ones have such an action. Last, how recent the newest near impression is.
    """
    cosine = inputs.similarity.clamp(min=0)
    near = torch.sigmoid(_SHARP * (cosine - _NEAR))
    impression = inputs.source == int(Source.IMPRESSION)
    explicit = inputs.valid & ~impression & (inputs.source != int(Source.NONE))
    types = torch.cat([inputs.action_types, inputs.action_types.new_zeros(1)])[inputs.index]
    unwanted = [head for head in heads if head.utility < 0]
    disliked = explicit & (types & _mask(*unwanted) != 0)
    # How recent: 1 now, falling with the logarithm of the age, and 0 where nothing is near.
    recency = (1 - inputs.age_s.log1p() / _LOG_OLDEST) * near
    columns = [
        *(_top(cosine * explicit, count) for count in _TOPS),
        _top(cosine * impression, _TOPS[1]),
        _top(cosine * disliked, _TOPS[1]),
        (recency * explicit).amax(dim=1),
    ]
    if which == "all":
        young = [inputs.age_s < limit for limit in _AGES_S]
        for group in (explicit, impression):
            columns += [(near * group * age).sum(dim=1).log1p() for age in (torch.ones_like(group), *young)]
        recent = inputs.source == int(Source.RECENT)
        from_newest = recent.flip(1).cumsum(1).flip(1) * recent
        columns += [(near * recent * (from_newest <= count)).sum(dim=1) / count for count in _NEWEST]
        weight = torch.softmax((_SHARP * cosine).masked_fill(~explicit, -torch.inf), dim=1).nan_to_num()
        columns += [(weight * age).sum(dim=1) for age in young]
        for head in heads:
            acted = types & _mask(head) != 0
            columns += [(weight * acted).sum(dim=1), (near * (explicit & acted)).sum(dim=1).log1p()]
        columns.append((recency * impression).amax(dim=1))
    return torch.stack(columns, dim=1)


def _top(values: Tensor, count: int) -> Tensor:
    return values.topk(min(count, values.shape[1]), dim=1).values.sum(dim=1) / count


def _mask(*heads: Head) -> int:
    bits = bits_of(action_type for head in heads for action_type in head.action_types)
    # As the signed number of the same 64 bits.
    return bits - (1 << 64) if bits >> 63 else bits
