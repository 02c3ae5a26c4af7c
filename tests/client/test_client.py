import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import grpc
import numpy as np
import pytest

from lifeline.client import SNAPSHOT_TIMEOUT_S, LifelineClient, LifelineError, PartitionSnapshot, TokenSource
from lifeline.core.actions import Kind
from lifeline.core.reasons import Reason
from lifeline.core.sequence import AsOf, Column, SequenceQuery
from lifeline.producer import make_item
from lifeline.rpc.status import Refusal, abort
from lifeline.v1 import (
    operator_pb2,
    operator_pb2_grpc,
    score_pb2,
    score_pb2_grpc,
    sequence_pb2,
    sequence_pb2_grpc,
)
from tests.support.operators import Operators

BIG = (1 << 64) - 1
AS_OF = sequence_pb2.AsOf(partition=2, applied_offset=41, watermark_ms=99)


class Node(
    sequence_pb2_grpc.SequenceServiceServicer,
    score_pb2_grpc.ScoreServiceServicer,
    Operators,
):
    """A node that remembers what it was asked and answers what the test says."""

    def __init__(self) -> None:
        self.asked: list[sequence_pb2.GetSequenceRequest] = []
        self.scored: list[score_pb2.ScoreRequest] = []
        self.copied: list[list[int]] = []
        self.deadlines: list[float] = []
        self.sequence = sequence_pb2.GetSequenceResponse(as_of=AS_OF)
        self.score = score_pb2.ScoreResponse(as_of=AS_OF)
        self.snapshots = operator_pb2.CreateSnapshotResponse()
        self.refusal: Refusal | None = None
        self.hold: Callable[[], object] = lambda: None

    def GetSequence(  # noqa: N802
        self, request: sequence_pb2.GetSequenceRequest, context: grpc.ServicerContext
    ) -> sequence_pb2.GetSequenceResponse:
        self.asked.append(request)
        self._answer(context)
        return self.sequence

    def Score(  # noqa: N802
        self, request: score_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> score_pb2.ScoreResponse:
        self.scored.append(request)
        self._answer(context)
        if self.score.score:
            return self.score
        count = len(request.item_id)
        return score_pb2.ScoreResponse(as_of=AS_OF, score=[0] * count, embedding_known=[True] * count)

    def CreateSnapshot(  # noqa: N802
        self, request: operator_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> operator_pb2.CreateSnapshotResponse:
        self.copied.append(list(request.partitions))
        self._answer(context)
        return self.snapshots

    def _answer(self, context: grpc.ServicerContext) -> None:
        self.deadlines.append(context.time_remaining() or 0.0)
        self.hold()
        if self.refusal:
            abort(context, self.refusal)


@pytest.fixture
def node() -> Node:
    return Node()


@contextmanager
def served(node: Node, port: int = 0) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    sequence_pb2_grpc.add_SequenceServiceServicer_to_server(node, server)
    score_pb2_grpc.add_ScoreServiceServicer_to_server(node, server)
    operator_pb2_grpc.add_OperatorServiceServicer_to_server(node, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield f"127.0.0.1:{bound}"
    server.stop(0).wait()


@pytest.fixture
def address(node: Node) -> Iterator[str]:
    with served(node) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[LifelineClient]:
    with LifelineClient(address) as client:
        yield client


def test_a_sequence_comes_as_columns(node: Node, client: LifelineClient) -> None:
    embedding = np.arange(-32, 32, dtype=np.int8).reshape(2, 32)
    node.sequence.sequences.add(
        kind=sequence_pb2.KIND_EXPLICIT,
        length=2,
        stored=9,
        timestamp_ms=np.array([1, 1 << 40], "<i8").tobytes(),
        item_id=np.array([BIG, 0], "<u8").tobytes(),
        action_type=bytes([1, 64]),
        surface=bytes([0, 255]),
        embedding=embedding.tobytes(),
    )
    node.sequence.sequences.add(kind=sequence_pb2.KIND_IMPRESSION)
    kinds = (Kind.EXPLICIT, Kind.IMPRESSION)
    answer = client.get_sequence("ann", SequenceQuery(kinds=kinds, columns=Column.ALL))
    assert answer.as_of == AsOf(2, 41, 99)
    explicit = answer.sequences[Kind.EXPLICIT]
    assert (explicit.length, explicit.stored) == (2, 9)
    for column, dtype, values in (
        (explicit.timestamp_ms, np.int64, [1, 1 << 40]),
        (explicit.item_id, np.uint64, [BIG, 0]),
        (explicit.action_type, np.uint8, [1, 64]),
        (explicit.surface, np.uint8, [0, 255]),
        (explicit.embedding, np.int8, embedding.tolist()),
    ):
        assert column is not None
        assert column.dtype == dtype
        assert column.tolist() == values
    impressions = answer.sequences[Kind.IMPRESSION]
    assert impressions.length == 0
    assert impressions.embedding is not None
    assert impressions.embedding.shape == (0, 32)


def test_the_query_is_what_the_node_is_asked(node: Node, client: LifelineClient) -> None:
    client.get_sequence(
        "zoë",
        SequenceQuery(
            kinds=(Kind.IMPRESSION,),
            newest=7,
            from_timestamp_ms=0,
            to_timestamp_ms=5,
            action_types=frozenset({3, 1}),
            columns=Column.ITEM_ID | Column.EMBEDDING,
        ),
        min_offset=0,
    )
    assert node.asked == [
        sequence_pb2.GetSequenceRequest(
            user_id="zoë",
            kinds=[sequence_pb2.KIND_IMPRESSION],
            newest=7,
            from_timestamp_ms=0,
            to_timestamp_ms=5,
            action_types=[1, 3],
            columns=[sequence_pb2.COLUMN_ITEM_ID, sequence_pb2.COLUMN_EMBEDDING],
            min_offset=0,
        )
    ]


def test_without_a_query_the_whole_explicit_sequence_is_asked_for(node: Node, client: LifelineClient) -> None:
    node.sequence.sequences.add(kind=sequence_pb2.KIND_EXPLICIT)
    sequence = client.get_sequence("ann").sequences[Kind.EXPLICIT]
    (request,) = node.asked
    assert (list(request.kinds), request.newest, request.HasField("min_offset")) == ([1], 0, False)
    assert sequence.timestamp_ms is not None
    assert sequence.embedding is None
    with pytest.raises(ValueError, match="at least one event"):
        client.get_sequence("ann", SequenceQuery(newest=0))


def test_scores_come_as_columns(node: Node, client: LifelineClient) -> None:
    node.score.heads.extend(["click", "hide"])
    node.score.model.name, node.score.model.version = "transact", "7"
    node.score.score.extend([0.5, -1])
    node.score.probability.extend([0.75, 0.25, 0, 1])
    node.score.embedding_known.extend([True, False])
    node.score.explanations.add().selected.add(
        source=score_pb2.TOKEN_SOURCE_RECENT,
        item_id=4,
        timestamp_ms=5,
        action_types=[1, 2],
        surface=3,
        similarity=-0.5,
        age_ms=6,
        contribution=0.25,
    )
    node.score.explanations.add()
    embedding = np.arange(32, dtype=np.int8)
    scores = client.score(
        "ann", np.array([BIG, 2], np.uint64), embeddings={BIG: embedding}, timestamp_ms=8, surface=1, explain=3
    )
    assert node.scored == [
        score_pb2.ScoreRequest(
            user_id="ann",
            item_id=[BIG, 2],
            embedding=embedding.tobytes() + bytes(32),
            context=score_pb2.ScoreContext(timestamp_ms=8, surface=1),
            explain=True,
            contributions=3,
        )
    ]
    assert scores.heads == ("click", "hide")
    assert scores.item_id.tolist() == [BIG, 2]
    assert scores.score.tolist() == [0.5, -1.0]
    assert scores.probability.tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert scores.embedding_known.tolist() == [True, False]
    assert scores.as_of == AsOf(2, 41, 99)
    assert (scores.model, scores.model_version) == ("transact", "7")
    assert scores.selected == (((TokenSource.RECENT, 4, 5, (1, 2), 3, -0.5, 6, 0.25),), ())


def test_an_answer_for_other_candidates_is_an_error(node: Node, client: LifelineClient) -> None:
    node.score.score.extend([0.5, 0.25])
    node.score.embedding_known.extend([True, True])
    with pytest.raises(LifelineError, match="2 scores came for 1 candidates: use a client of the node's own version"):
        client.score("ann", [1])


def test_without_explanations_no_tokens_come(node: Node, client: LifelineClient) -> None:
    node.score.score.extend([0.5, 0.25])
    node.score.embedding_known.extend([True, True])
    scores = client.score("ann", [1, 2])
    assert scores.selected == ((), ())
    assert node.scored[0].embedding == b""


def test_an_answer_without_candidates_has_empty_columns(client: LifelineClient) -> None:
    assert client.score("ann", []).probability.shape == (0, 0)


@pytest.mark.parametrize("row", [np.zeros(31, np.int8), np.ones(32, np.int64), np.ones((1, 32)), np.zeros(32)])
def test_an_embedding_that_is_none_is_not_sent(client: LifelineClient, row: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"item 17\b.*(give int8\[32\] or float\[32\]|all zeros)"):
        client.score("ann", [17], embeddings={17: row})


def test_floats_are_quantized_as_items_are(node: Node, client: LifelineClient) -> None:
    node.score.score.append(0.5)
    node.score.embedding_known.append(True)
    client.score("ann", [1], embeddings={1: np.full(32, 1e-3, np.float32)})
    assert node.scored[0].embedding == make_item(1, np.ones(32)).embedding


def test_a_refusal_carries_its_reason(node: Node, address: str) -> None:
    node.refusal = Refusal(grpc.StatusCode.UNAVAILABLE, Reason.NOT_OWNER, "ask another node", partition="3")
    with LifelineClient(address, retry=False) as client:
        for call in (lambda: client.get_sequence("ann"), lambda: client.score("ann", [1])):
            with pytest.raises(LifelineError) as caught:
                call()
            error = caught.value
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
            assert (error.metadata, error.attempts) == ({"partition": "3"}, 1)
            assert str(error) == "UNAVAILABLE (NOT_OWNER): ask another node"


def test_a_node_that_is_not_there_is_named() -> None:
    with LifelineClient("127.0.0.1:1", retry=False) as client, pytest.raises(LifelineError) as caught:
        client.get_sequence("ann")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "")
    assert "no node answers at 127.0.0.1:1" in str(caught.value)
    assert "give another address" in str(caught.value)


NOT_OWNER = Refusal(grpc.StatusCode.UNAVAILABLE, Reason.NOT_OWNER, "ask another node", partition="2", partitions="4")


def test_another_node_is_asked_where_one_refuses_and_remembered(node: Node, address: str) -> None:
    other = Node()
    other.refusal = NOT_OWNER
    with served(other) as elsewhere, LifelineClient([elsewhere, address], timeout_s=60) as client:
        for _ in range(50):
            assert client.get_sequence("ann").as_of.applied_offset == 41
        assert len(other.asked) <= 1
        assert len(node.asked) == 50
        # The partition moves.
        node.refusal, other.refusal = NOT_OWNER, None
        for _ in range(3):
            assert client.score("ann", [1]).as_of.partition == 2
        assert (len(other.scored), len(node.scored)) == (3, 1)


def test_a_node_that_refuses_for_a_while_is_asked_again(node: Node, client: LifelineClient) -> None:
    node.refusal = NOT_OWNER

    def relent() -> None:
        if len(node.asked) == 4:
            node.refusal = None

    node.hold = relent
    assert client.get_sequence("ann", timeout_s=60).as_of.partition == 2
    assert len(node.asked) == 4


def test_a_node_that_says_when_is_not_asked_before(node: Node, client: LifelineClient) -> None:
    node.refusal = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.OVERLOADED, "later").with_retry_delay(0.4)
    call_times: list[float] = []
    node.hold = lambda: call_times.append(time.monotonic())
    with pytest.raises(LifelineError) as caught:
        client.get_sequence("ann", timeout_s=1.5)
    assert caught.value.retry_after_s == 0.4
    assert 2 <= len(call_times) <= 5
    assert all(later - earlier > 0.3 for earlier, later in pairwise(call_times))


def test_a_node_that_comes_back_within_the_deadline_is_no_failure() -> None:
    with served(Node()) as address:
        pass
    port = int(address.rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool, LifelineClient(address) as client:
        answer = pool.submit(client.get_sequence, "ann", timeout_s=60)
        with pytest.raises(TimeoutError):
            answer.result(0.3)
        with served(Node(), port):
            assert answer.result(60).as_of.partition == 2


def test_the_deadline_bounds_all_attempts_and_the_last_failure_says_how_many(
    node: Node, client: LifelineClient
) -> None:
    node.refusal = NOT_OWNER
    started = time.monotonic()
    with pytest.raises(LifelineError, match=r"ask another node \(the last of \d+ attempts\)") as caught:
        client.get_sequence("ann", timeout_s=1)
    assert time.monotonic() - started < 30
    assert caught.value.attempts == len(node.asked) > 1
    # How much each attempt had left when it was handled: never more than was given, and the last one hardly half of it.
    assert max(node.deadlines) <= 1.1
    assert node.deadlines[-1] < 0.6


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(grpc.StatusCode.FAILED_PRECONDITION, Reason.NOT_SERVING, "it refuses"),
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, Reason.FIELD_INVALID, "no"),
        Refusal(grpc.StatusCode.UNAVAILABLE, Reason.STORE_FAILED, "see to the disk"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(node: Node, client: LifelineClient, refusal: Refusal) -> None:
    node.refusal = refusal
    with pytest.raises(LifelineError) as caught:
        client.get_sequence("ann", timeout_s=60)
    assert (caught.value.attempts, len(node.asked)) == (1, 1)


def test_a_client_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="no address"):
        LifelineClient(" , ")


def test_every_call_has_a_deadline(node: Node, address: str) -> None:
    with LifelineClient(address, timeout_s=3.0) as client:
        client.get_sequence("ann")
        client.get_sequence("ann", timeout_s=60.0)
        client.score("ann", [1], timeout_s=60.0)
    # The wire rounds a deadline, so that a little more than what was given may arrive.
    first, *others = node.deadlines
    assert 0 < first < 4
    assert all(50 < left < 61 for left in others), others


def test_a_call_that_takes_too_long_says_so(node: Node, address: str) -> None:
    release = threading.Event()
    node.hold = lambda: release.wait(30)
    try:
        with LifelineClient(address) as client, pytest.raises(LifelineError) as caught:
            client.get_sequence("ann", timeout_s=0.05)
    finally:
        release.set()
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "longer timeout_s" in str(caught.value)


def test_a_column_of_the_wrong_length_is_an_error(node: Node, client: LifelineClient) -> None:
    node.sequence.sequences.add(kind=sequence_pb2.KIND_EXPLICIT, length=2, timestamp_ms=bytes(9))
    with pytest.raises(LifelineError, match="column TIMESTAMP_MS has 9 bytes for 2 events"):
        client.get_sequence("ann")


def test_snapshots_come_as_the_node_made_them(node: Node, client: LifelineClient) -> None:
    snapshot = PartitionSnapshot(
        partition=2,
        id="41-now",
        applied_offset=41,
        events=40,
        fingerprint="f" * 32,
        files=9,
        total_bytes=1 << 40,
        uploaded_files=1,
        uploaded_bytes=1 << 33,
        seconds=1.5,
    )
    fields = snapshot._asdict()
    node.snapshots.snapshots.add(snapshot_id=fields.pop("id"), **fields)
    assert client.create_snapshot([2]) == [snapshot]
    # It takes longer than a read.
    assert client.timeout_s < SNAPSHOT_TIMEOUT_S - 60 < node.deadlines[0]
    client.create_snapshot(timeout_s=7)
    assert node.copied == [[2], []]
    assert node.deadlines[1] < 8
