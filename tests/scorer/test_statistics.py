import numpy as np
import torch

from scorer.selection import Source
from scorer.statistics import selection_statistics, statistics_count
from tests.scorer.made import HEADS, SMALL, embeddings, history
from tests.scorer.test_model import made_inputs

DAY_S = 86_400


def test_they_are_what_they_are_said_to_be() -> None:
    rng = np.random.default_rng(0)
    h = history(rng, 40, 9)
    inputs, selection = made_inputs(rng, h, embeddings(rng, 5))
    found = selection_statistics(inputs, HEADS).numpy()
    assert found.shape == (5, statistics_count(len(HEADS)))
    for row in range(5):
        columns = []
        cosine = np.maximum(selection.similarity[row], 0).astype(np.float64)
        near = 1 / (1 + np.exp(-16 * (cosine - 0.4)))
        age = inputs.age_s[row].numpy().astype(np.float64)
        is_impression = selection.source[row] == Source.IMPRESSION
        is_explicit = (selection.source[row] != Source.NONE) & ~is_impression
        limits = [DAY_S, 7 * DAY_S, 30 * DAY_S, 90 * DAY_S]
        for group in (is_explicit, is_impression):
            greatest = np.sort(cosine[group])[::-1]
            columns += [greatest[:count].sum() / count for count in (1, 8, 64)]
            columns.append(np.log1p(near[group].sum()))
            columns += [np.log1p(near[group & (age < limit)].sum()) for limit in limits]
            columns.append(max([0.0, *((1 - np.log1p(age) / 21) * near)[group]]))
        weight = np.where(is_explicit, np.exp(16 * cosine), 0)
        weight /= weight.sum()
        columns += [weight[age < limit].sum() for limit in limits]
        types = np.where(selection.index[row] >= 0, h.tokens.action_types[selection.index[row]], np.uint64(0))
        for head in HEADS:
            acted = (types & np.uint64(1 << (head.action_types[0] - 1))) != 0
            columns += [weight[acted].sum(), np.log1p(near[acted & is_explicit].sum())]
        np.testing.assert_allclose(found[row], columns, atol=2e-5)


def test_an_empty_history_gives_zeros() -> None:
    rng = np.random.default_rng(1)
    inputs, _ = made_inputs(rng, history(rng, 0, 0), embeddings(rng, 3), SMALL)
    found = selection_statistics(inputs, HEADS)
    assert torch.equal(found, torch.zeros_like(found))
