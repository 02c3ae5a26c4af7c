import numpy as np
import pytest
import torch

from lifeline.scorer.selection import Source
from lifeline.scorer.selection_features import Statistics, selection_statistics, statistics_count
from tests.support.models import made_inputs
from tests.support.scorer_factories import HEADS, embeddings, history

DAY_S = 86_400


def test_they_are_what_they_are_said_to_be() -> None:
    rng = np.random.default_rng(0)
    h = history(rng, 40, 9)
    inputs, selection = made_inputs(rng, h, embeddings(rng, 5))
    found = selection_statistics(inputs, "all", HEADS).numpy()
    few = selection_statistics(inputs, "few", HEADS).numpy()
    np.testing.assert_array_equal(found[:, :6], few)
    assert few.shape == (5, statistics_count("few", len(HEADS)))
    assert found.shape == (5, statistics_count("all", len(HEADS)))
    for row in range(5):
        cosine = np.maximum(selection.similarity[row], 0).astype(np.float64)
        near = 1 / (1 + np.exp(-16 * (cosine - 0.4)))
        age = inputs.age_s[row].numpy().astype(np.float64)
        is_impression = selection.source[row] == Source.IMPRESSION
        is_explicit = (selection.source[row] != Source.NONE) & ~is_impression
        types = np.where(selection.index[row] >= 0, h.tokens.action_types[selection.index[row]], np.uint64(0))
        # hide is the only head with a negative utility: bit 3.
        hidden = (types & np.uint64(8)) != 0

        def top(group: "np.ndarray[tuple[int], np.dtype[np.bool_]]", count: int) -> float:
            return float(np.sort(cosine[group])[::-1][:count].sum()) / count  # noqa: B023 - called at once

        def newest(group: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> float:
            return float(max([0.0, *((1 - np.log1p(age) / 21) * near)[group].tolist()]))  # noqa: B023 - called at once

        columns = [top(is_explicit, 1), top(is_explicit, 8), top(is_explicit, 64)]
        columns += [top(is_impression, 8), top(is_explicit & hidden, 8), newest(is_explicit)]
        limits = [days * DAY_S for days in (1, 3, 7, 14, 30, 60, 120)]
        for group in (is_explicit, is_impression):
            columns += [float(np.log1p(near[group & (age < limit)].sum())) for limit in (np.inf, *limits)]
        recent = np.flatnonzero(selection.source[row] == Source.RECENT)
        columns += [float(near[recent[::-1][:count]].sum()) / count for count in (8, 20, 64)]
        weight = np.where(is_explicit, np.exp(16 * cosine), 0)
        weight /= weight.sum()
        columns += [float(weight[age < limit].sum()) for limit in limits]
        for head in HEADS:
            acted = (types & np.uint64(1 << (head.action_types[0] - 1))) != 0
            columns += [float(weight[acted].sum()), float(np.log1p(near[acted & is_explicit].sum()))]
        columns.append(newest(is_impression))
        np.testing.assert_allclose(found[row], columns, atol=2e-5)


@pytest.mark.parametrize("which", ["few", "all"])
def test_an_empty_history_gives_zeros(which: Statistics) -> None:
    rng = np.random.default_rng(1)
    inputs, _ = made_inputs(rng, history(rng, 0, 0), embeddings(rng, 3))
    found = selection_statistics(inputs, which, HEADS)
    assert torch.equal(found, torch.zeros_like(found))
