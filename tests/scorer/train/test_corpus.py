import numpy as np
import pytest

from lifeline.core.actions import Kind
from lifeline.core.sequence import Sequence
from lifeline.scorer.errors import TrainingDataError
from lifeline.scorer.features import History, tokenize
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.corpus import Corpus
from lifeline.scorer.train.request import Request, labels
from tests.support.scorer_factories import DAY, HOUR, MINUTE, SMALL, population, rows_of, sequence, vectors_of

SETTINGS = TrainSettings(min_history=5, candidates=8, max_positives=3)


def drawn(corpus: Corpus, row: int, settings: TrainSettings = SETTINGS) -> Request:
    return corpus.request(row, settings, np.random.default_rng([7, int(corpus.timestamp_ms[row])]))


def test_a_request_sees_what_happened_before_it_and_nothing_else() -> None:
    histories = population(0)
    vectors = vectors_of(histories)
    corpus = Corpus.of(histories, SMALL)
    for row in corpus.usable_requests(SETTINGS)[::7]:
        request = drawn(corpus, int(row))
        at = request.context.timestamp_ms
        before = {
            kind: sequence([row for row in rows_of(events) if row[0] < at], vectors)
            for kind, events in histories[request.user].items()
        }
        expected = History.of(*tokenize(before, SMALL.visit_gap_ms), SMALL)
        for found, wanted in (
            (request.history.explicit, expected.explicit),
            (request.history.impressions, expected.impressions),
        ):
            np.testing.assert_array_equal(found.timestamp_ms, wanted.timestamp_ms)
            np.testing.assert_array_equal(found.item_id, wanted.item_id)
            np.testing.assert_array_equal(found.action_types, wanted.action_types)
            np.testing.assert_array_equal(found.embedding, wanted.embedding)


def test_the_future_changes_nothing_but_the_labels() -> None:
    whole = Corpus.of(population(1), SMALL)
    rows = whole.usable_requests(SETTINGS)
    row = int(rows[len(rows) // 2])
    at, user = int(whole.timestamp_ms[row]), int(whole.user[row])
    # Everything that comes more than a visit later is gone; what the user did in the visit stays.
    cut = Corpus.of(population(1, until=at + HOUR), SMALL)
    same = next(r for r in range(len(cut.user)) if cut.user[r] == user and cut.timestamp_ms[r] == at)
    full, short = drawn(whole, row), drawn(cut, same)
    assert full.item_id.tolist() == short.item_id.tolist()
    np.testing.assert_array_equal(full.history.explicit.item_id, short.history.explicit.item_id)
    np.testing.assert_array_equal(full.history.impressions.item_id, short.history.impressions.item_id)
    np.testing.assert_array_equal(full.action_types, short.action_types)


@pytest.mark.parametrize("max_positives", [1, 3])
def test_every_candidate_was_known_and_has_an_embedding(max_positives: int) -> None:
    settings = SETTINGS.model_copy(update={"max_positives": max_positives})
    histories = population(2)
    # Item 3 never has an embedding.
    for sequences in histories:
        for s in sequences.values():
            assert s.embedding is not None
            assert s.item_id is not None
            s.embedding[s.item_id == 3] = 0
    corpus = Corpus.of(histories, SMALL)
    rows = corpus.usable_requests(settings)
    assert len(rows) > 50
    assert (np.diff(corpus.timestamp_ms[rows]) >= 0).all()
    for row in rows:
        request = drawn(corpus, int(row), settings)
        assert 2 <= len(request.item_id) <= settings.candidates
        assert len(set(request.item_id.tolist())) == len(request.item_id)
        assert 3 not in request.item_id
        item = np.searchsorted(corpus.item_id, request.item_id)
        np.testing.assert_array_equal(corpus.embedding[item], request.embedding)
        assert (corpus.first_seen_ms[item] < request.context.timestamp_ms).all()
        positives = int((request.action_types != 0).sum())
        assert 1 <= positives <= settings.max_positives
        # What the user did in the visit is never a negative.
        acts = slice(corpus.visit_from[row], corpus.visit_from[row + 1])
        assert not set(corpus.item[acts].tolist()) & set(item[positives:].tolist())


def test_labels_follow_the_heads() -> None:
    item = {1: np.full(32, 3, np.int8), 2: np.full(32, -3, np.int8)}
    rows = [(day * DAY, 1 + day % 2, 2, 0) for day in range(10)]
    rows += [(20 * DAY, 1, 1, 0), (20 * DAY + MINUTE, 1, 4, 0), (20 * DAY + MINUTE, 2, 3, 0)]
    corpus = Corpus.of([{Kind.EXPLICIT: sequence(rows, item)}], SMALL)
    request = drawn(corpus, int(corpus.usable_requests(SETTINGS)[-1]))
    by_item = dict(zip(request.item_id.tolist(), labels(request.action_types, SMALL.heads).tolist(), strict=True))
    assert [head.name for head in SMALL.heads] == ["repin", "click", "closeup", "hide"]
    assert by_item == {1: [1, 0, 0, 1], 2: [0, 0, 1, 0]}


def test_a_request_is_made_when_a_visit_begins_with_an_impression() -> None:
    item = {1: np.full(32, 3, np.int8), 2: np.full(32, -3, np.int8)}
    acts = [(day * DAY, 1 + day % 2, 2, 0) for day in range(10)]
    acts.append((20 * DAY, 1, 2, 0))
    shown = [(20 * DAY - 20 * MINUTE, 1, 5, 0), (20 * DAY - 20 * MINUTE, 2, 5, 0)]
    corpus = Corpus.of([{Kind.EXPLICIT: sequence(acts, item), Kind.IMPRESSION: sequence(shown, item)}], SMALL)
    request = drawn(corpus, int(corpus.usable_requests(SETTINGS)[-1]))
    assert request.context.timestamp_ms == 20 * DAY - 20 * MINUTE
    # The impressions belong to the request's own visit: it has not seen them.
    assert len(request.history.impressions) == 0


def test_requests_before_the_window_of_the_embeddings_are_not_used() -> None:
    corpus = Corpus.of(population(3), SMALL)
    at = int(np.median(corpus.timestamp_ms))
    rows = corpus.usable_requests(SETTINGS.model_copy(update={"from_timestamp_ms": at}))
    assert 0 < len(rows) < len(corpus.usable_requests(SETTINGS))
    assert (corpus.timestamp_ms[rows] >= at).all()


def test_nothing_to_learn_from_is_refused() -> None:
    nothing: list[list[dict[Kind, Sequence]]] = [[], [{Kind.EXPLICIT: sequence([])}], [{}]]
    for histories in nothing:
        with pytest.raises(TrainingDataError, match="publish a history first"):
            Corpus.of(histories, SMALL)


def negatives_of(corpus: Corpus, settings: TrainSettings) -> tuple[Corpus, list[tuple[int, list[int]]]]:
    """Return each usable request, and the items of its candidates that the user did not act on."""
    found = []
    for row in corpus.usable_requests(settings):
        request = drawn(corpus, int(row), settings)
        item = np.searchsorted(corpus.item_id, request.item_id)
        found.append((int(row), item[request.action_types == 0].tolist()))
    return corpus, found


def test_an_item_that_somebody_ended_is_no_candidate_until_somebody_acts_on_it_again() -> None:
    ending = 1
    corpus = Corpus.of(population(4), SMALL)
    settings = SETTINGS.model_copy(update={"ending_types": (ending,)})
    columns = (corpus.explicit.timestamp_ms, corpus.item, corpus.explicit.action_types)
    every = sorted(zip(*(column.tolist() for column in columns), strict=True))
    ended = 0
    for row in corpus.usable_requests(settings):
        at = int(corpus.timestamp_ms[row])
        newest = {item: types for moment, item, types in every if moment < at}
        gone = {item for item, types in newest.items() if types & 1 << (ending - 1)}
        ended += len(gone)
        candidates = np.searchsorted(corpus.item_id, drawn(corpus, int(row), settings).item_id)
        assert not gone & set(candidates.tolist())
    assert ended > 0
    assert 0 < len(corpus.usable_requests(settings)) <= len(corpus.usable_requests(SETTINGS))


@pytest.mark.parametrize(("kind", "within"), [("recent", 5), ("older", 9)])
def test_negatives_of_the_newest_events_come_from_no_further_back(kind: str, within: int) -> None:
    settings = TrainSettings.model_validate(
        SETTINGS.model_dump() | {"negatives": {kind: 1}, f"{kind}_events": within, "max_positives": 1}
    )
    corpus, found = negatives_of(Corpus.of(population(5), SMALL), settings)
    times, items = corpus.stream
    assert any(negatives for _, negatives in found)
    for row, negatives in found:
        past = int(np.searchsorted(times, corpus.timestamp_ms[row]))
        assert set(negatives) <= set(items[max(0, past - within) : past].tolist())


def test_negatives_of_a_surface_were_first_acted_on_there() -> None:
    settings = TrainSettings.model_validate(SETTINGS.model_dump() | {"negatives": {"surface": 1}})
    histories = population(6)
    for user, sequences in enumerate(histories):
        for events in sequences.values():
            assert events.surface is not None
            events.surface[:] = 1 + user % 2
    corpus, found = negatives_of(Corpus.of(histories, SMALL), settings)
    born_at = {item: surface for surface, (_, born) in corpus.appearances_by_surface.items() for item in born.tolist()}
    own = 0
    for row, negatives in found:
        at = corpus.timestamp_ms[row]
        surfaces = set(corpus.explicit.surface[corpus.visit_from[row] : corpus.visit_from[row + 1]].tolist())
        # Where nothing was born at one of the surfaces before, any item stands in.
        if all(
            corpus.appearances_by_surface[surface][0][0] < at
            for surface in surfaces
            if surface in corpus.appearances_by_surface
        ):
            assert {born_at[item] for item in negatives} <= surfaces
            own += len(negatives)
    assert own > 0


def test_negatives_take_turns_in_their_proportion() -> None:
    settings = TrainSettings.model_validate(
        SETTINGS.model_dump() | {"negatives": {"own": 3, "random": 1}, "candidates": 5, "max_positives": 1}
    )
    histories = population(7)
    corpus = Corpus.of(histories, SMALL)
    owned = of_all = 0
    for row, negatives in negatives_of(corpus, settings)[1]:
        own = set(corpus.item[corpus.user_from[row] : corpus.visit_from[row]].tolist())
        owned += sum(item in own for item in negatives)
        of_all += len(negatives)
    # Three of four are own, and of the random ones some; repeats of own items are dropped.
    assert owned / of_all > 0.5


def test_a_visit_on_many_items_is_no_request() -> None:
    corpus = Corpus.of(population(8), SMALL)
    rows = corpus.usable_requests(SETTINGS.model_copy(update={"max_acts": 2}))
    assert 0 < len(rows) < len(corpus.usable_requests(SETTINGS))
    assert (np.diff(corpus.visit_from)[rows] <= 2).all()
