from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lifeline.core.embedding_codec import normalize
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import History
from lifeline.scorer.selection import Selection, Source, select
from lifeline.scorer.train.next_action import NextActions, Pool, next_action_losses, next_actions
from tests.support.scorer_factories import SMALL, embeddings, history

CONFIG = SMALL.model_copy(update={"nal_negatives": 4})


def unit(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return normalize(embeddings(rng, count))


def of_first_row(user: int, h: History, selection: Selection, positive_types: Sequence[int]) -> NextActions:
    row = (selection.index[0], selection.source[0])
    return next_actions(user, h.tokens, row, h.impressions.embedding, positive_types)


def next_action_loss(
    projected: torch.Tensor, batch: Sequence[NextActions], config: ModelConfig, rng: np.random.Generator
) -> torch.Tensor:
    seed = int(rng.integers(1 << 30))
    rngs = [np.random.default_rng([seed, row]) for row in range(len(batch))]
    losses = next_action_losses(projected, batch, Pool.of(batch), config, rngs)
    return losses.mean() if len(losses) else losses.sum()


def test_the_target_is_the_next_positive_action_with_an_embedding() -> None:
    rng = np.random.default_rng(0)
    config = SMALL.model_copy(update={"recent_kept": 6})
    h = history(rng, 12, 4, config)
    recent = h.explicit.take(slice(6, 12))
    # repin 1, hide 4: bits 0 and 3.
    recent.action_types[:] = [1, 8, 1, 1, 8 | 1, 8]
    recent.embedding[:] = embeddings(rng, 6)
    recent.embedding[3] = 0
    selection = select(h, embeddings(rng, 2), config)
    found = of_first_row(7, h, selection, [1, 2])
    first = int(np.flatnonzero(selection.source[0] == Source.RECENT)[0])
    assert found.user == 7
    assert (found.position - first).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(found.target, normalize(recent.embedding)[[2, 2, 4, 4]])
    assert len(found.ignored) == h.impressions.embedding.any(axis=1).sum()


@pytest.mark.parametrize("explicit", [0, 1])
def test_a_short_history_has_no_target(explicit: int) -> None:
    rng = np.random.default_rng(1)
    h = history(rng, explicit, 3)
    found = of_first_row(0, h, select(h, embeddings(rng, 1), SMALL), [1, 2, 3, 4])
    assert len(found.position) == 0
    projected = torch.zeros(1, SMALL.selection_length, 32, requires_grad=True)
    assert next_action_loss(projected, [found], CONFIG, rng) == 0


def test_it_is_the_published_formula() -> None:
    rng = np.random.default_rng(2)
    actions = NextActions(0, np.array([1, 3]), unit(rng, 2), unit(rng, 1))
    projected = torch.from_numpy(rng.normal(size=(1, 5, 32)).astype(np.float32))
    expected = []
    for place, target in zip(actions.position, actions.target, strict=True):
        u = projected[0, place].numpy().astype(np.float64)
        # One impression, drawn as often as there are negatives.
        away = CONFIG.nal_negatives * np.exp(u @ actions.ignored[0])
        expected.append(-np.log(np.exp(u @ target) / (np.exp(u @ target) + away)))
    assert next_action_loss(projected, [actions], CONFIG, rng).item() == pytest.approx(np.mean(expected), abs=1e-5)


def test_negatives_in_the_batch_are_other_users() -> None:
    rng = np.random.default_rng(3)
    embedding = unit(rng, 1)
    none = np.empty((0, 32), np.float32)
    same = [NextActions(4, np.array([0]), embedding, none), NextActions(4, np.array([0]), unit(rng, 1), none)]
    projected = torch.from_numpy(rng.normal(size=(2, 1, 32)).astype(np.float32))
    assert next_action_loss(projected, same, CONFIG, rng) == 0
    other = [same[0], NextActions(5, np.array([0]), -embedding, none)]
    in_batch = CONFIG.model_copy(update={"nal_source": "in_batch"})
    impressed = [NextActions(4, np.array([0]), embedding, unit(rng, 3)), other[1]]
    first = next_action_loss(projected, other, CONFIG, rng).item()
    assert first > 0
    assert next_action_loss(projected, impressed, in_batch, rng).item() == pytest.approx(first)
    assert next_action_loss(projected, impressed, CONFIG, rng).item() != pytest.approx(first)


def test_what_a_row_draws_depends_on_its_own_generator_alone() -> None:
    rng = np.random.default_rng(5)
    batch = [NextActions(user, np.array([0, 1]), unit(rng, 2), unit(rng, 9)) for user in range(3)]
    projected = torch.from_numpy(rng.normal(size=(3, 2, 32)).astype(np.float32))
    rngs = [np.random.default_rng([6, row]) for row in range(3)]
    whole = next_action_losses(projected, batch, Pool.of(batch), CONFIG, rngs)
    alone = next_action_losses(projected[2:], batch[2:], Pool.of(batch), CONFIG, [np.random.default_rng([6, 2])])
    assert whole[4:].tolist() == alone.tolist()


def test_it_pulls_the_output_towards_the_next_item() -> None:
    rng = np.random.default_rng(4)
    actions = NextActions(0, np.array([0]), unit(rng, 1), unit(rng, 3))
    projected = torch.zeros(1, 1, 32, requires_grad=True)
    torch.autograd.backward(next_action_loss(projected, [actions], CONFIG, rng))
    assert projected.grad is not None
    assert -(projected.grad[0, 0].numpy() @ actions.target[0]) > 0
