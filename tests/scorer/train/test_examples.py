import numpy as np
import pytest
import torch

from lifeline.scorer import features
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import History, RequestContext
from lifeline.scorer.inputs import Inputs, Pairs
from lifeline.scorer.selection import Source, select
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.corpus import Corpus
from lifeline.scorer.train.examples import CorpusSource, Draw, ExampleSet
from lifeline.scorer.train.request import Request, labels
from tests.support.ranking_requests import gathered, made_requests, rngs
from tests.support.scorer_factories import DAY, HEADS, HOUR, MINUTE, SMALL, embeddings, history, population

ALL = Draw(HEADS, None, ())


def serving_inputs(request: Request, config: ModelConfig) -> Inputs:
    """Return what the model is to read, from the whole history."""
    count = len(request.item_id)
    about = Pairs(
        request.embedding,
        np.full(count, request.context.timestamp_ms),
        features.context(request.history.explicit, request.item_id, request.context, config),
        np.full(count, request.context.surface, np.uint8),
    )
    selection = select(request.history, request.embedding, config)
    return Inputs.of(request.history.tokens, selection.trim(), about)


@pytest.mark.parametrize("sizes", [[(40, 9, 5)], [(0, 0, 3)], [(2, 0, 1)], [(0, 3, 4)]])
def test_training_reads_the_tensors_that_serving_reads(sizes: list[tuple[int, int, int]]) -> None:
    (request,) = made_requests(np.random.default_rng(0), sizes)
    request.embedding[0] = 0
    examples = ExampleSet.of([request], SMALL)
    batch = examples.batch(np.array([0]), rngs(1), ALL)
    expected = gathered(serving_inputs(request, SMALL))
    for name, tensor in gathered(batch.inputs).items():
        assert torch.equal(tensor, expected[name]), name
    np.testing.assert_array_equal(batch.labels.numpy(), labels(request.action_types, HEADS))


def test_a_batch_holds_its_requests_one_after_the_other() -> None:
    requests = made_requests(np.random.default_rng(1), [(40, 9, 5), (0, 0, 2), (12, 3, 7)])
    examples = ExampleSet.of(requests, SMALL)
    assert len(examples) == 3
    rows = np.array([2, 0, 1])
    batch = examples.batch(rows, rngs(3), ALL)
    assert batch.first.tolist() == [0, 7, 12]
    found = gathered(batch.inputs)
    for row, first in zip(rows.tolist(), batch.first.tolist(), strict=True):
        expected = gathered(serving_inputs(requests[row], SMALL))
        length = expected["valid"].shape[1]
        for name, tensor in expected.items():
            own = found[name][first : first + len(requests[row].item_id)]
            assert torch.equal(
                own[:, :length] if own.dim() > 1 and name not in {"candidate", "context"} else own, tensor
            )
    np.testing.assert_array_equal(examples.rankings["random"][:5], requests[0].rankings["random"])


def test_what_is_drawn_of_a_request_does_not_depend_on_its_neighbours() -> None:
    examples = ExampleSet.of(made_requests(np.random.default_rng(2), [(40, 9, 9), (30, 9, 9)]), SMALL)
    draw = Draw(HEADS, 4, (1, 2))
    both = examples.batch(np.array([0, 1]), rngs(2), draw)
    alone = examples.batch(np.array([1]), rngs(2)[1:], draw)
    assert len(both.labels) == 8
    assert torch.equal(both.inputs.candidate[4:], alone.inputs.candidate)
    assert torch.equal(both.labels[4:], alone.labels)
    np.testing.assert_array_equal(both.next_actions[1].target, alone.next_actions[0].target)
    again = examples.batch(np.array([1]), [np.random.default_rng([9, 77])], draw)
    assert not torch.equal(again.inputs.candidate, alone.inputs.candidate)


def test_next_actions_have_all_impressions_whether_or_not_they_were_selected() -> None:
    rng = np.random.default_rng(3)
    config = SMALL.model_copy(update={"impressions_selected": 0})
    h = History.of(history(rng, 40, 0).explicit, history(rng, 0, 5).impressions, config)
    request = Request(
        0, h, RequestContext(1000 * DAY), np.arange(2).astype(np.uint64), embeddings(rng, 2), np.ones(2, np.uint64)
    )
    batch = ExampleSet.of([request], config).batch(np.array([0]), rngs(1), Draw(HEADS, None, (1, 2, 3)))
    assert len(batch.next_actions[0].ignored) == h.impressions.embedding.any(axis=1).sum() > 0


def test_a_corpus_is_selected_as_it_is_drawn() -> None:
    settings = TrainSettings(min_history=5, candidates=8)
    corpus = Corpus.of(population(0), SMALL)
    rows = corpus.usable_requests(settings)[:3]
    source = CorpusSource(corpus, rows, SMALL, settings)
    assert len(source) == 3
    batch = source.batch(np.array([1, 2]), rngs(2), ALL)
    expected = [corpus.request(int(row), settings, rng) for row, rng in zip(rows[1:], rngs(2), strict=True)]
    assert len(batch.labels) == sum(len(request.item_id) for request in expected)
    np.testing.assert_array_equal(
        batch.labels.numpy(), np.concatenate([labels(request.action_types, HEADS) for request in expected])
    )


def test_no_request_is_refused() -> None:
    with pytest.raises(ValueError, match="store longer histories"):
        ExampleSet.of([], SMALL)


def test_the_random_time_window_hides_the_newest_explicit_tokens_and_nothing_else() -> None:
    (request,) = made_requests(np.random.default_rng(4), [(40, 9, 5)])
    at_ms = request.context.timestamp_ms
    # A token an hour, the newest of them a minute ago.
    request.history.explicit.timestamp_ms[:] = at_ms - np.arange(40)[::-1] * HOUR - MINUTE
    examples = ExampleSet.of([request], SMALL)
    whole = examples.batch(np.array([0]), rngs(1), ALL).inputs
    draw = Draw(HEADS, None, (1, 2, 3), hidden_hours=24.0)
    hours = rngs(1)[0].uniform(0, 24)
    assert hours > 1
    found = examples.batch(np.array([0]), rngs(1), draw)
    for row in range(5):
        kept = (whole.age_s[row] >= hours * 3_600) | (whole.source[row] == int(Source.IMPRESSION))
        kept &= whole.index[row] >= 0
        count = int(kept.sum())
        assert 0 < count < int(whole.valid[row].sum())
        assert found.inputs.age_s[row, :count].tolist() == whole.age_s[row][kept].tolist()
        assert found.inputs.source[row, :count].tolist() == whole.source[row][kept].tolist()
        assert (found.inputs.index[row, count:] == -1).all()
    recent = int((found.inputs.source[0] == int(Source.RECENT)).sum())
    assert (found.next_actions[0].position < found.inputs.valid.shape[1]).all()
    assert len(found.next_actions[0].position) <= recent


def test_a_window_that_hides_everything_leaves_the_neutral_token() -> None:
    (request,) = made_requests(np.random.default_rng(5), [(10, 0, 2)])
    request.history.explicit.timestamp_ms[:] = request.context.timestamp_ms - 1
    batch = ExampleSet.of([request], SMALL).batch(np.array([0]), rngs(1), Draw(HEADS, None, (), hidden_hours=24.0))
    assert batch.inputs.valid.tolist() == [[True], [True]]
    assert batch.inputs.index.tolist() == [[-1], [-1]]
