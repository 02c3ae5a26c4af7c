from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import History
from lifeline.scorer.kernels.instruction_set import InstructionSet, best, override
from lifeline.scorer.selection import CANDIDATES_AT_ONCE, Selection, Source, cosines, select, similarity_of
from tests.support.scorer_factories import HEADS, SMALL, embeddings, history, tokens

# Few small numbers in few places: most cosines tie.
VECTOR = st.lists(st.integers(-1, 1), min_size=3, max_size=3)


@pytest.fixture(scope="module", autouse=True, params=sorted({InstructionSet.NONE, best()}), ids=lambda it: it.label)
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    """Select with PyTorch, and with the best kernels."""
    with override(request.param):
        yield


def spread(vectors: list[list[int]]) -> NDArray[np.int8]:
    rows = np.zeros((len(vectors), 32), np.int8)
    if vectors:
        rows[:, :3] = vectors
    return rows


def signed_square(a: NDArray[np.int8], b: NDArray[np.int8]) -> Fraction:
    """Return the cosine's square with its sign: exact, and in the order of the cosine."""
    x, y = a.astype(int).tolist(), b.astype(int).tolist()
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    return Fraction(dot * abs(dot), sum(p * p for p in x) * sum(q * q for q in y))


def plain_nearest(table: NDArray[np.int8], c: NDArray[np.int8], start: int, stop: int, count: int) -> list[int]:
    if not c.any():
        return []
    pool = [row for row in range(start, stop) if table[row].any()]
    return sorted(sorted(pool, key=lambda row: (signed_square(table[row], c), row))[-count:] if count else [])


def plain_selection(h: History, c: NDArray[np.int8], config: ModelConfig) -> list[tuple[int, Source]]:
    table, n = h.tokens.embedding, len(h.explicit)
    recent = max(0, n - config.recent_kept)
    return [
        *((row, Source.LIFELONG) for row in plain_nearest(table, c, 0, h.real_time_from, config.lifelong_selected)),
        *((row, Source.RECENT) for row in range(recent, n)),
        *(
            (row, Source.REAL_TIME)
            for row in plain_nearest(table, c, h.real_time_from, recent, config.real_time_selected)
        ),
        *((row, Source.IMPRESSION) for row in plain_nearest(table, c, n, len(table), config.impressions_selected)),
    ]


def chosen(selection: Selection, row: int) -> list[tuple[int, Source]]:
    count = int((selection.index[row] >= 0).sum())
    return [
        (int(index), Source(source))
        for index, source in zip(selection.index[row, :count], selection.source[row, :count], strict=True)
    ]


@given(st.lists(VECTOR, max_size=25), st.lists(VECTOR, max_size=8), st.lists(VECTOR, min_size=1, max_size=3))
def test_it_is_the_exact_top_k_with_ties_to_the_newer(
    explicit: list[list[int]], shown: list[list[int]], candidates: list[list[int]]
) -> None:
    rng = np.random.default_rng(0)
    a, b = tokens(rng, len(explicit)), tokens(rng, len(shown))
    a.embedding[:], b.embedding[:] = spread(explicit), spread(shown)
    h, c = History.of(a, b, SMALL), spread(candidates)
    selection = select(h, c, SMALL)
    assert selection.index.shape == (len(c), SMALL.selection_length)
    for row in range(len(c)):
        assert chosen(selection, row) == plain_selection(h, c[row], SMALL)


def test_it_is_exact_at_full_size() -> None:
    rng = np.random.default_rng(1)
    config = ModelConfig(heads=HEADS)
    a, b = tokens(rng, 3000), tokens(rng, 200)
    # Every vector ten times: equal cosines must come out equal wherever the token stands.
    a.embedding[:] = rng.permutation(np.repeat(embeddings(rng, 300), 10, axis=0))
    h, c = History.of(a, b, config), embeddings(rng, CANDIDATES_AT_ONCE + 3)
    selection = select(h, c, config)
    for row in (0, 1, CANDIDATES_AT_ONCE, len(c) - 1):
        assert chosen(selection, row) == plain_selection(h, c[row], config)


def test_the_reported_similarity_is_the_cosine_and_zero_where_unknown() -> None:
    rng = np.random.default_rng(2)
    h, c = history(rng, 30, 8), embeddings(rng, 4)
    c[2] = 0
    selection = select(h, c, SMALL)
    table = h.tokens.embedding.astype(np.float64)
    for row, column in np.argwhere(selection.index >= 0):
        token, candidate = table[selection.index[row, column]], c[row].astype(np.float64)
        norm = np.linalg.norm(token) * np.linalg.norm(candidate)
        expected = token @ candidate / norm if norm else 0.0
        assert abs(selection.similarity[row, column] - expected) < 1e-6
    assert not selection.similarity[selection.index < 0].any()


def test_a_candidate_without_an_embedding_has_the_recent_tokens_alone() -> None:
    h = history(np.random.default_rng(3), 30, 8)
    selection = select(h, np.zeros((1, 32), np.int8), SMALL)
    assert chosen(selection, 0) == [(27, Source.RECENT), (28, Source.RECENT), (29, Source.RECENT)]


def test_padding_stands_on_the_right_and_key_0_is_valid() -> None:
    rng = np.random.default_rng(4)
    for explicit in range(12):
        for shown in (0, 1, 7):
            selection = select(history(rng, explicit, shown), embeddings(rng, 5), SMALL)
            assert selection.valid[:, 0].all()
            assert (np.diff(selection.valid.astype(int), axis=1) <= 0).all()
            if explicit:
                assert ((selection.index >= 0) == selection.valid).all()
            assert ((selection.source == Source.NONE) == (selection.index < 0)).all()


def test_an_empty_history_is_one_neutral_token() -> None:
    selection = select(history(np.random.default_rng(5), 0, 0), embeddings(np.random.default_rng(5), 2), SMALL)
    assert (selection.index == -1).all()
    assert selection.valid.sum(axis=1).tolist() == [1, 1]
    assert selection.trim().index.shape == (2, 1)


def test_candidates_do_not_know_each_other() -> None:
    rng = np.random.default_rng(6)
    h, c = history(rng, 40, 8), embeddings(rng, 2 * CANDIDATES_AT_ONCE + 1)
    together, order = select(h, c, SMALL), rng.permutation(len(c))
    shuffled = select(h, c[order], SMALL)
    np.testing.assert_array_equal(shuffled.index, together.index[order])
    np.testing.assert_array_equal(shuffled.similarity, together.similarity[order])
    for row in (0, CANDIDATES_AT_ONCE, len(c) - 1):
        np.testing.assert_array_equal(select(h, c[row : row + 1], SMALL).index[0], together.index[row])


def test_no_candidates_give_no_rows() -> None:
    selection = select(history(np.random.default_rng(7), 9, 2), np.empty((0, 32), np.int8), SMALL)
    assert selection.index.shape == (0, SMALL.selection_length)


def test_similarities_are_the_same_to_the_bit_when_they_are_worked_out_again() -> None:
    rng = np.random.default_rng(8)
    h = history(rng, 300, 30)
    c = embeddings(rng, 20)
    c[3] = 0
    selection = select(h, c, SMALL)
    np.testing.assert_array_equal(similarity_of(c, h.tokens.embedding, selection.index), selection.similarity)
    nothing = select(history(rng, 0, 0), c, SMALL)
    np.testing.assert_array_equal(similarity_of(c, np.empty((0, 32), np.int8), nothing.index), nothing.similarity)


def test_cosines_are_those_of_every_pair() -> None:
    rng = np.random.default_rng(9)
    h = history(rng, 50, 0)
    c = embeddings(rng, 4)
    found = cosines(c, h.tokens.embedding)
    index = np.tile(np.arange(50), (4, 1))
    np.testing.assert_array_equal(found, similarity_of(c, h.tokens.embedding, index))
