"""Requests for more candidates than a node takes at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from lifeline.client import LifelineClient, LifelineError
from lifeline.rpc.score_service import parse_candidates
from lifeline.rpc.validation import abort_on_refusal, invalid_field
from lifeline.v1 import score_pb2, score_pb2_grpc, sequence_pb2

LIMIT = 4


class Scorer(score_pb2_grpc.ScoreServiceServicer):
    """Answers each candidate with its own id, and checks requests as a node does."""

    def __init__(self) -> None:
        self.requests: list[score_pb2.ScoreRequest] = []
        self.limit = LIMIT
        self.versions: Iterator[str] = iter(())

    def Score(  # noqa: N802
        self, request: score_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> score_pb2.ScoreResponse:
        self.requests.append(request)
        with abort_on_refusal(context):
            item_id, embedding = parse_candidates(request, self.limit)
            if request.contributions * len(item_id) > self.limit:
                raise invalid_field("contributions", "request fewer", limit=str(self.limit))
            reply = score_pb2.ScoreResponse(
                heads=["click"],
                score=item_id.astype(np.float32),
                probability=item_id.astype(np.float32) / 100,
                embedding_known=[False] * len(item_id) if embedding is None else [bool(row.any()) for row in embedding],
                as_of=sequence_pb2.AsOf(partition=1, applied_offset=40 + len(self.requests)),
                model=score_pb2.ModelVersion(name="m", version=next(self.versions, "9")),
            )
            for item in item_id.tolist() if request.explain else ():
                reply.explanations.add().selected.add(source=score_pb2.TOKEN_SOURCE_RECENT, item_id=item)
            return reply
        raise AssertionError("a refusal ends the call")


@pytest.fixture
def scorer() -> Scorer:
    return Scorer()


@pytest.fixture
def client(scorer: Scorer) -> Iterator[LifelineClient]:
    server = grpc.server(ThreadPoolExecutor(2))
    score_pb2_grpc.add_ScoreServiceServicer_to_server(scorer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with LifelineClient(f"127.0.0.1:{port}") as client:
        yield client
    server.stop(0).wait()


def test_more_candidates_than_the_limit_are_one_answer(scorer: Scorer, client: LifelineClient) -> None:
    candidates = np.arange(10, dtype=np.uint64)[::-1]
    scores = client.score("ann", candidates, embeddings={9: np.ones(32, np.int8), 1: np.ones(32)}, explain=0)
    assert scores.item_id.tolist() == scores.score.tolist() == candidates.tolist()
    assert scores.probability.shape == (10, 1)
    assert scores.embedding_known.nonzero()[0].tolist() == [0, 8]
    assert [tokens[0].item_id for tokens in scores.selected] == candidates.tolist()
    assert [len(request.item_id) for request in scorer.requests] == [10, 4, 4, 2]
    assert scores.as_of.applied_offset == 42
    # Every part is scored as of one time, and on a history that is not older than the part before it.
    assert len({request.context.timestamp_ms for request in scorer.requests[1:]}) == 1
    assert [request.min_offset for request in scorer.requests[1:]] == [0, 42, 43]


def test_the_limit_is_learned_once(scorer: Scorer, client: LifelineClient) -> None:
    for _ in range(2):
        assert len(client.score("ann", list(range(5)), timestamp_ms=7, min_offset=3).score) == 5
    assert [len(request.item_id) for request in scorer.requests] == [5, 4, 1, 4, 1]
    assert {request.context.timestamp_ms for request in scorer.requests} == {7}
    assert scorer.requests[0].min_offset == 3
    scorer.limit = 2
    assert client.score("ann", list(range(5))).score.tolist() == [0, 1, 2, 3, 4]


def test_contributions_count_against_the_limit(scorer: Scorer, client: LifelineClient) -> None:
    assert client.score("ann", [1, 2, 3], explain=2).score.tolist() == [1, 2, 3]
    assert [len(request.item_id) for request in scorer.requests] == [3, 2, 1]
    with pytest.raises(LifelineError, match="contributions"):
        client.score("ann", [1], explain=LIMIT + 1)


def test_one_model_version_scores_all_parts(scorer: Scorer, client: LifelineClient) -> None:
    client.score("ann", list(range(5)))
    scorer.requests.clear()
    scorer.versions = iter(["1", "2", "3", "3", "3"])
    scores = client.score("ann", list(range(9)))
    assert (scores.model_version, scores.score.tolist()) == ("3", list(range(9)))
    assert [request.item_id[0] for request in scorer.requests] == [0, 4, 0, 4, 8]


@pytest.mark.usefixtures("scorer")
def test_parts_share_one_deadline(client: LifelineClient) -> None:
    with pytest.raises(LifelineError) as caught:
        client.score("ann", list(range(9)), timeout_s=0.0)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_candidates_that_are_no_exact_integers_are_not_sent(scorer: Scorer, client: LifelineClient) -> None:
    with pytest.raises(ValueError, match="item id 1 is nan"):
        client.score("ann", np.array([1.0, np.nan]))
    assert scorer.requests == []
