from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lifeline.scorer.errors import SelectionRecordError
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import RequestContext, Tokens, read_history
from lifeline.scorer.inputs import Inputs, Pairs
from lifeline.scorer.model import TransAct
from lifeline.scorer.scorer import Scorer
from lifeline.scorer.selection import Selection
from lifeline.scorer.selection_log import LoggedRequest, check_selection_settings, decode, encode
from lifeline.scorer.train.examples import Draw, ExampleSet, Outcome
from lifeline.v1 import selection_pb2
from tests.support.embedding_tables import Table
from tests.support.ranking_requests import gathered, made_requests, rngs
from tests.support.scorer_factories import DAY, HEADS, SMALL, VOCABULARY, loaded, population


def logged(sizes: tuple[int, int, int] = (40, 9, 5)) -> LoggedRequest:
    (request,) = made_requests(np.random.default_rng(0), [sizes])
    selected, _ = FeatureSnapshot.of(request.history, request.item_id, request.embedding, request.context, SMALL)
    probability = np.random.default_rng(1).random((sizes[2], 4)).astype(np.float32)
    return LoggedRequest("ann", "transact", "7", SMALL.selection_settings, selected, probability)


def same(snapshot: FeatureSnapshot, other: FeatureSnapshot) -> bool:
    def equal(left: object, right: object) -> bool:
        if isinstance(left, Tokens) and isinstance(right, Tokens):
            return all(equal(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))
        if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
            return left.dtype == right.dtype and np.array_equal(left, right)
        return left == right

    return all(equal(getattr(snapshot, f.name), getattr(other, f.name)) for f in fields(snapshot))


@pytest.mark.parametrize("sizes", [(40, 9, 5), (0, 0, 2), (1, 0, 1), (0, 3, 3)])
def test_what_is_logged_comes_back(sizes: tuple[int, int, int]) -> None:
    wanted = logged(sizes)
    found = decode(encode(wanted))
    assert found[:4] == wanted[:4]
    assert same(found.snapshot, wanted.snapshot)
    np.testing.assert_array_equal(found.probability, wanted.probability)


def test_a_model_sees_the_same_tensors_from_the_log_as_at_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = TransAct(SMALL).eval()
    served: list[dict[str, torch.Tensor]] = []
    scorer = Scorer(loaded(model), VOCABULARY, Table())
    probabilities = scorer._probabilities

    def spy(tokens: Tokens, selection: Selection, pairs: Pairs) -> NDArray[np.float32]:
        served.append(gathered(Inputs.of(tokens, selection, pairs)))
        return probabilities(tokens, selection, pairs)

    # Whatever does the model's work, all that it reads comes by here.
    monkeypatch.setattr(scorer, "_probabilities", spy)
    history = read_history(population(0)[0], SMALL)
    items = np.array([3, 50, 9_999], np.uint64)
    answer = scorer.score(history, items, RequestContext(500 * DAY, 1))
    record = encode(
        LoggedRequest("ann", "transact", "7", SMALL.selection_settings, answer.snapshot, answer.probabilities)
    )
    selected = decode(record).snapshot
    outcome = Outcome(0, selected, np.array([1, 0, 2], np.uint64), {})
    batch = ExampleSet.of_outcomes([outcome]).batch(np.array([0]), rngs(1), Draw(HEADS, None, (1, 2)))
    for name, tensor in gathered(batch.inputs).items():
        assert torch.equal(tensor, served[0][name]), name
    with torch.inference_mode():
        again = torch.sigmoid(model(batch.inputs)).numpy()
    np.testing.assert_allclose(again, answer.probabilities, atol=1e-5)
    assert batch.labels[:, 0].tolist() == [1, 0, 0]
    assert len(batch.next_actions[0].target) > 0


def test_a_record_of_something_else_is_refused() -> None:
    with pytest.raises(SelectionRecordError, match=r"not a lifeline.v1.SelectionRecord: check what publishes"):
        decode(b"\xff\xff\xff")


@pytest.mark.parametrize("part", ["candidates.item_id", "candidates.index", "candidates.source", "tokens.embedding"])
def test_a_record_whose_columns_do_not_fit_is_refused(part: str) -> None:
    record = selection_pb2.SelectionRecord.FromString(encode(logged()))
    group, name = part.split(".")
    setattr(getattr(record, group), name, getattr(getattr(record, group), name)[:-1])
    with pytest.raises(SelectionRecordError, match="do not fit together"):
        decode(record.SerializeToString())


def test_an_index_beyond_the_tokens_is_refused() -> None:
    made = logged()
    index = made.snapshot.index.copy()
    index[0, 0] = len(made.snapshot.tokens)
    with pytest.raises(SelectionRecordError, match="its index points outside its tokens"):
        decode(encode(made._replace(snapshot=replace(made.snapshot, index=index))))


def test_an_empty_record_is_refused() -> None:
    with pytest.raises(SelectionRecordError, match="do not fit together"):
        decode(b"")


def test_another_selection_cannot_be_trained_from() -> None:
    made = logged()
    check_selection_settings(made, SMALL)
    with pytest.raises(SelectionRecordError, match=r"recent_kept 3, and the model to be trained has 2"):
        check_selection_settings(made, SMALL.model_copy(update={"recent_kept": 2}))
