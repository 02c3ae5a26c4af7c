from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.actions import Kind
from lifeline.core.sequence import Sequence
from lifeline.scorer import features
from lifeline.scorer.features import History, RequestContext, Tokens, read_history, tokenize
from lifeline.scorer.kernels import tokens as kernels
from lifeline.scorer.kernels.instruction_set import InstructionSet, best, override
from tests.support.scorer_factories import DAY, HOUR, MINUTE, SMALL, sequence, tokens

GAP = 30 * MINUTE
Row = tuple[int, int, int, int]
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 20).map(lambda n: n * 10 * MINUTE), st.integers(0, 4), st.integers(1, 4), st.integers(0, 2)
    ),
    max_size=25,
)


KERNELS = pytest.param(
    InstructionSet.AVX2,
    marks=pytest.mark.skipif(best() < InstructionSet.AVX2, reason="not built, or the processor lacks it"),
)


@pytest.fixture(params=[InstructionSet.NONE, KERNELS], scope="module", autouse=True)
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    """Do everything with NumPy, and with the kernels."""
    with override(request.param):
        yield


def plain_visits(times: list[int]) -> list[int]:
    visit, answer = 0, []
    for number, at in enumerate(times):
        visit += number > 0 and at - times[number - 1] > GAP
        answer.append(visit)
    return answer


def plain_tokens(rows: list[Row]) -> list[tuple[int, int, frozenset[int], int]]:
    """Return (time, item, action types, surface) of each token, one event after the other."""
    rows = sorted(rows)
    groups: dict[tuple[int, int], list[int]] = {}
    for number, visit in enumerate(plain_visits([row[0] for row in rows])):
        groups.setdefault((visit, rows[number][1]), []).append(number)
    answer = []
    for numbers in sorted(groups.values(), key=lambda numbers: numbers[-1]):
        newest = rows[numbers[-1]]
        answer.append((newest[0], newest[1], frozenset(rows[n][2] for n in numbers), newest[3]))
    return answer


def seen(found: Tokens) -> list[tuple[int, int, frozenset[int], int]]:
    types = [frozenset(n + 1 for n in range(64) if int(bits) >> n & 1) for bits in found.action_types]
    return list(zip(found.timestamp_ms.tolist(), found.item_id.tolist(), types, found.surface.tolist(), strict=True))


@given(EVENTS)
def test_a_visits_events_on_one_item_are_one_token(rows: list[Row]) -> None:
    explicit, _ = tokenize({Kind.EXPLICIT: sequence(rows)}, GAP)
    assert seen(explicit) == plain_tokens(rows)


@given(EVENTS, EVENTS)
def test_impressions_engaged_with_in_their_visit_are_dropped(acts: list[Row], shown: list[Row]) -> None:
    shown = [(at, item, 5, surface) for at, item, _, surface in shown]
    every = sorted([row[:2] for row in acts + shown])
    visit_of = dict(zip([at for at, _ in every], plain_visits([at for at, _ in every]), strict=True))
    acted = {(visit_of[row[0]], row[1]) for row in acts}
    expected = [token for token in plain_tokens(shown) if (visit_of[token[0]], token[1]) not in acted]
    _, found = tokenize({Kind.EXPLICIT: sequence(acts), Kind.IMPRESSION: sequence(shown)}, GAP)
    assert seen(found) == expected


@given(EVENTS, EVENTS)
def test_impressions_never_change_explicit_tokens(acts: list[Row], shown: list[Row]) -> None:
    both, _ = tokenize({Kind.EXPLICIT: sequence(acts), Kind.IMPRESSION: sequence(shown)}, GAP)
    alone, _ = tokenize({Kind.EXPLICIT: sequence(acts)}, GAP)
    assert seen(both) == seen(alone)


def test_a_token_has_the_embedding_of_its_item() -> None:
    vector = {3: np.full(32, 7, np.int8)}
    found, _ = tokenize({Kind.EXPLICIT: sequence([(0, 3, 1, 0), (1, 4, 1, 0), (2, 3, 2, 0)], vector)}, GAP)
    assert found.item_id.tolist() == [4, 3]
    assert found.embedding.any(axis=1).tolist() == [False, True]


def test_action_type_64_has_a_bit() -> None:
    found, _ = tokenize({Kind.EXPLICIT: sequence([(0, 3, 64, 0), (1, 3, 1, 0)])}, GAP)
    assert found.action_types.tolist() == [(1 << 63) | 1]


@pytest.mark.parametrize("count", [0, 1, 5_000])
@pytest.mark.parametrize("most_items", [1, 40, 1 << 63])
def test_the_kernels_and_numpy_give_the_same_tokens_of_long_sequences(count: int, most_items: int) -> None:
    if best() < InstructionSet.AVX2:
        pytest.skip("not built, or the processor lacks it")
    rng = np.random.default_rng(count)

    def events(count: int) -> kernels.EventColumns:
        return kernels.EventColumns(
            np.sort(rng.integers(0, 400 * GAP, count)),
            rng.integers(0, most_items, count, dtype=np.uint64),
            rng.integers(1, 65, count).astype(np.uint8),
        )

    acted, shown = events(count), events(3_000)
    for sides in (acted, shown), (shown, acted):
        for found, wanted in zip(kernels.merge(sides[0], GAP), features._merge(sides[0], GAP), strict=True):
            np.testing.assert_array_equal(found, wanted)
            assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(kernels.engaged(*sides, GAP), features._engaged(*sides, GAP))
        items = rng.choice(np.concatenate([sides[0].item_id, np.arange(50, dtype=np.uint64)]), 60)
        found = kernels.last_touch(sides[1].item_id, items)
        np.testing.assert_array_equal(found, features._last_touch(sides[1].item_id, items))


def test_no_token_stands_in_two_sequences() -> None:
    rng = np.random.default_rng(0)
    explicit, impressions = tokens(rng, 20), tokens(rng, 9)
    history = History.of(explicit, impressions, SMALL)
    assert history.real_time_from == 20 - SMALL.real_time_length
    assert len(history.impressions) == SMALL.impression_length
    assert history.impressions.item_id.tolist() == impressions.item_id[-5:].tolist()
    assert history.tokens.item_id.tolist() == [*explicit.item_id, *impressions.item_id[-5:]]
    assert History.of(explicit.take(slice(0, 2)), Tokens.empty(), SMALL).real_time_from == 0


def test_a_user_nobody_knows_has_an_empty_history() -> None:
    for sequences in ({}, {Kind.EXPLICIT: sequence([]), Kind.IMPRESSION: sequence([])}):
        history = read_history(sequences, SMALL)
        assert len(history.tokens) == 0


def test_a_sequence_without_a_column_is_refused() -> None:
    whole = sequence([(0, 3, 1, 0)])
    lacking = Sequence(1, 1, whole.timestamp_ms, whole.item_id, whole.action_type, whole.surface, None)
    with pytest.raises(ValueError, match=r"Column\.ALL"):
        read_history({Kind.EXPLICIT: lacking}, SMALL)


@given(st.lists(st.integers(0, 6), max_size=20), st.lists(st.integers(0, 8), max_size=6))
def test_last_touch_is_the_newest_token_of_the_item(history: list[int], candidates: list[int]) -> None:
    rng = np.random.default_rng(0)
    explicit = tokens(rng, len(history))
    explicit.item_id[:] = history
    expected = [max((n for n, item in enumerate(history) if item == c), default=-1) for c in candidates]
    assert features.last_touch(explicit, np.array(candidates, np.uint64)).tolist() == expected


def test_context_knows_the_hour_the_weekday_and_the_touch() -> None:
    rng = np.random.default_rng(0)
    explicit = tokens(rng, 2)
    explicit.item_id[:] = [5, 6]
    explicit.timestamp_ms[:] = [9 * DAY, 10 * DAY]
    items = np.array([6, 5, 7], np.uint64)
    at = RequestContext(10 * DAY + 6 * HOUR)
    columns = features.context(explicit, items, at, SMALL)
    assert columns.shape == (3, SMALL.context_features)
    # Six in the morning is a quarter turn: cosine 0, sine 1.
    np.testing.assert_allclose(columns[0, :2], [0, 1], atol=1e-6)
    np.testing.assert_allclose(columns[:, :5], np.tile(columns[0, :5], (3, 1)))
    assert columns[:, 5].tolist() == [1, 1, 0]
    assert columns[0, 6] > columns[1, 6] > columns[2, 6] == 0
    week_later = features.context(explicit, items, RequestContext(at.timestamp_ms + 7 * DAY), SMALL)
    np.testing.assert_allclose(week_later[:, :5], columns[:, :5], atol=1e-6)
    without = SMALL.model_copy(update={"last_touch": False})
    np.testing.assert_array_equal(features.context(explicit, items, at, without), columns[:, :5])


def test_a_touch_after_the_request_is_as_fresh_as_one_at_it() -> None:
    rng = np.random.default_rng(0)
    explicit = tokens(rng, 1)
    explicit.timestamp_ms[:] = 10 * DAY
    columns = features.context(explicit, explicit.item_id, RequestContext(9 * DAY), SMALL)
    assert columns[0, 6] == 1
