from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lifeline.core.actions import Kind
from lifeline.core.vocabulary import Vocabulary
from lifeline.scorer.errors import ModelMismatchError
from lifeline.scorer.features import History, RequestContext, read_history
from lifeline.scorer.inputs import Inputs, Pairs
from lifeline.scorer.model import TransAct
from lifeline.scorer.scorer import Scorer, Scores
from lifeline.scorer.selection import Source, restore
from tests.support.scorer_factories import DAY, HEADS, HOUR, SMALL, VOCABULARY, embeddings, loaded, sequence

RNG = np.random.default_rng(0)
TABLE = dict(enumerate(embeddings(RNG, 50)))
NOW = RequestContext(1000 * DAY, 1)


class Table:
    """Knows the items of TABLE."""

    def lookup(self, item_id: NDArray[np.uint64]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        known = np.array([int(item) in TABLE for item in item_id], np.bool_)
        rows = [TABLE.get(int(item), np.zeros(32, np.int8)) for item in item_id]
        return np.array(rows, np.int8).reshape(-1, 32), known


def user(explicit: int, shown: int = 8, extra: tuple[tuple[int, int, int, int], ...] = ()) -> History:
    rng = np.random.default_rng(explicit)
    acts = [(int(rng.integers(900 * DAY)), int(rng.integers(60)), int(rng.integers(1, 5)), 1) for _ in range(explicit)]
    seen = [(int(rng.integers(900 * DAY)), int(rng.integers(60)), 5, 2) for _ in range(shown)]
    events = {Kind.EXPLICIT: sequence([*acts, *extra], TABLE), Kind.IMPRESSION: sequence(seen, TABLE)}
    return read_history(events, SMALL)


def model() -> TransAct:
    torch.manual_seed(0)
    return TransAct(SMALL).eval()


@pytest.fixture
def scorer() -> Scorer:
    return Scorer(loaded(model()), VOCABULARY, Table())


def test_the_score_is_the_sum_of_utility_times_probability(scorer: Scorer) -> None:
    scores = scorer.score(user(40), np.arange(45, 55, dtype=np.uint64), NOW)
    assert scores.heads == ("repin", "click", "closeup", "hide")
    assert scores.probabilities.shape == (10, 4)
    assert scores.probabilities.dtype == scores.score.dtype == np.float32
    assert ((scores.probabilities > 0) & (scores.probabilities < 1)).all()
    utility = [head.utility for head in HEADS]
    np.testing.assert_allclose(scores.score, scores.probabilities @ utility, atol=1e-6)
    assert scores.embedding_known.tolist() == [True] * 5 + [False] * 5
    assert scores.explanation is None


def test_candidates_do_not_know_each_other(scorer: Scorer) -> None:
    items = np.arange(60, dtype=np.uint64)
    together = scorer.score(user(40), items, NOW).score
    order = RNG.permutation(60)
    np.testing.assert_allclose(scorer.score(user(40), items[order], NOW).score, together[order], atol=1e-5)
    for row in (0, 59):
        alone = scorer.score(user(40), items[row : row + 1], NOW).score
        np.testing.assert_allclose(alone, together[row], atol=1e-5)


@pytest.mark.parametrize(("explicit", "shown"), [(0, 0), (0, 3), (1, 0)])
def test_short_histories_have_scores(scorer: Scorer, explicit: int, shown: int) -> None:
    scores = scorer.score(user(explicit, shown), np.array([3, 99], np.uint64), NOW, explain=0)
    assert np.isfinite(scores.score).all()
    assert scores.explanation is not None
    selected = scores.explanation.selection.index >= 0
    assert selected.sum(axis=1).tolist() == [explicit + min(shown, SMALL.impressions_selected), explicit]


def test_a_given_embedding_stands_in_where_the_table_has_none(scorer: Scorer) -> None:
    items = np.array([3, 99, 98], np.uint64)
    given = np.stack([TABLE[7], TABLE[3], np.zeros(32, np.int8)])
    plain = scorer.score(user(40), items, NOW)
    scores = scorer.score(user(40), items, NOW, candidate_embeddings=given)
    assert plain.embedding_known.tolist() == [True, False, False]
    assert scores.embedding_known.tolist() == [True, True, False]
    np.testing.assert_allclose(scores.score[[0, 2]], plain.score[[0, 2]], atol=1e-6)
    assert abs(scores.score[1] - plain.score[1]) > 1e-6


def test_a_new_action_changes_the_score_and_the_explanation(scorer: Scorer) -> None:
    items = np.array([3], np.uint64)
    before = scorer.score(user(40), items, NOW)
    at = NOW.timestamp_ms - HOUR
    after = scorer.score(user(40, extra=((at, 3, 1, 1),)), items, NOW, explain=0)
    assert before.score[0] != after.score[0]
    assert after.explanation is not None
    selection, tokens = after.explanation.selection, after.explanation.history.tokens
    recent = selection.index[0, selection.source[0] == Source.RECENT]
    assert tokens.timestamp_ms[recent[-1]] == at
    assert selection.similarity[0, selection.index[0] == recent[-1]] == pytest.approx(1)


@pytest.mark.parametrize("explicit", [1, 3, 40])
def test_a_contribution_is_what_the_score_loses_without_the_token(scorer: Scorer, explicit: int) -> None:
    items = np.array([3, 7, 99], np.uint64)
    who = user(explicit)
    scores = scorer.score(who, items, NOW, explain=4)
    assert scores.explanation is not None
    selection, contribution = scores.explanation.selection, scores.explanation.contribution
    told = ~np.isnan(contribution)
    for row in range(3):
        there = np.flatnonzero(selection.index[row] >= 0)
        assert told[row].sum() == min(4, len(there))
        # The most similar ones, of equals the newer.
        nearest = sorted(there, key=lambda at: (-selection.similarity[row, at], -at))[:4]
        assert set(np.flatnonzero(told[row])) == set(nearest)
        for column in np.flatnonzero(told[row]).tolist():
            assert contribution[row, column] == pytest.approx(without(scores, row, column), abs=1e-5)
    assert np.abs(contribution[told]).max() > 1e-4
    plain = scorer.score(who, items, NOW, explain=0)
    np.testing.assert_array_equal(plain.score, scores.score)
    assert plain.explanation is not None
    assert np.isnan(plain.explanation.contribution).all()


def without(scores: Scores, row: int, column: int) -> float:
    """Return what a candidate's score loses when its row is selected anew, token by token, without one."""
    request = scores.snapshot
    own = request.selection()
    left = [at for at in range(own.index.shape[1]) if at != column and own.index[row, at] >= 0]
    length = max(1, len(left))
    index, source = np.full((1, length), -1), np.zeros((1, length), np.uint8)
    index[0, : len(left)], source[0, : len(left)] = own.index[row, left], own.source[row, left]
    again = restore(index, source, request.embedding[row : row + 1], request.tokens.embedding)
    pairs = request.pairs
    inputs = Inputs.of(
        request.tokens,
        again,
        Pairs(*(getattr(pairs, name)[row : row + 1] for name in ("embedding", "timestamp_ms", "context", "surface"))),
    )
    with torch.inference_mode():
        probability = torch.sigmoid(model()(inputs)).numpy()[0]
    return float(scores.score[row] - probability @ np.array([head.utility for head in HEADS], np.float32))


def test_threads_do_not_disturb_each_other(scorer: Scorer) -> None:
    items = np.arange(30, dtype=np.uint64)
    sizes = [0, 1, 5, 17, 40, 80] * 4
    expected = {size: scorer.score(user(size), items, NOW).score for size in set(sizes)}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda size: scorer.score(user(size), items, NOW).score, sizes))
    for size, answer in zip(sizes, answers, strict=True):
        np.testing.assert_allclose(answer, expected[size], atol=1e-6)


def test_a_model_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ModelMismatchError):
        Scorer(loaded(TransAct(SMALL)), Vocabulary(surfaces={"elsewhere": 1}), Table())
