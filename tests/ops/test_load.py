import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from lifeline.core.actions import ActionBatch
from lifeline.core.errors import LoadError
from lifeline.core.security import INSECURE, CallSecurity
from lifeline.ops import load
from lifeline.ops.load import LoadPlan, Population, run_load
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings
from lifeline.v1 import score_pb2, score_pb2_grpc, sequence_pb2, sequence_pb2_grpc
from tests.support.scorer_factories import VOCABULARY

PEOPLE = Population(["ann", "bob"], np.arange(100, dtype=np.uint64))


class Node(sequence_pb2_grpc.SequenceServiceServicer, score_pb2_grpc.ScoreServiceServicer):
    """CallResults reads at once, but for one pause; refuses every second score."""

    def __init__(self) -> None:
        self.pause = threading.Lock()
        self.reads: list[sequence_pb2.GetSequenceRequest] = []
        self.scores: list[score_pb2.ScoreRequest] = []
        self.tokens: set[str] = set()

    def GetSequence(  # noqa: N802
        self, request: sequence_pb2.GetSequenceRequest, context: grpc.ServicerContext
    ) -> sequence_pb2.GetSequenceResponse:
        self.tokens |= {str(value) for key, value in context.invocation_metadata() if key == "authorization"}
        with self.pause:
            self.reads.append(request)
        return sequence_pb2.GetSequenceResponse()

    def Score(  # noqa: N802
        self, request: score_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> score_pb2.ScoreResponse:
        self.scores.append(request)
        if len(self.scores) % 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        return score_pb2.ScoreResponse()


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def address(node: Node) -> Iterator[str]:
    # One thread: what waits behind a stalled call is stalled with it.
    server = grpc.server(ThreadPoolExecutor(1))
    sequence_pb2_grpc.add_SequenceServiceServicer_to_server(node, server)
    score_pb2_grpc.add_ScoreServiceServicer_to_server(node, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_calls_come_at_their_rate_and_each_is_accounted_for(node: Node, address: str) -> None:
    plan = LoadPlan(rate=100, seconds=2, score_share=0.5, candidates=7, newest=3)
    result = run_load(plan, PEOPLE, address, INSECURE)
    reads, scores = result.kinds["read"], result.kinds["score"]
    assert reads.answered.get_total_count() == len(node.reads)
    assert scores.answered.get_total_count() == len(node.scores) // 2
    assert scores.codes == {"RESOURCE_EXHAUSTED": len(node.scores) - len(node.scores) // 2}
    assert scores.failed.get_total_count() == scores.codes.total()
    # Poisson: four standard deviations either way.
    assert 140 < len(node.reads) + len(node.scores) < 260
    assert result.seconds > 1.9
    assert {request.user_id for request in node.reads + node.scores} == {"ann", "bob"}
    assert {request.newest for request in node.reads} == {3}
    for request in node.scores:
        assert len(set(request.item_id)) == len(request.item_id) == 7


def test_a_seed_gives_the_same_calls(node: Node, address: str) -> None:
    planned, requested = [], []
    for seed in (1, 1, 2):
        plan = LoadPlan(rate=200, seconds=0.5, score_share=0, connections=1, seed=seed)
        planned.append(load._calls(plan, PEOPLE))
        node.reads.clear()
        run_load(plan, PEOPLE, address, INSECURE)
        requested.append([request.user_id for request in node.reads])
    assert planned[0] == planned[1] != planned[2]
    # Calls that are under way together may overtake one another on a busy machine.
    for calls, users in zip(planned, requested, strict=True):
        assert sorted(users) == sorted(call.request.user_id for call in calls)  # type: ignore[attr-defined]


def test_a_stall_is_charged_to_every_call_that_was_due_meanwhile(node: Node, address: str) -> None:
    begun = threading.Event()

    def stall() -> None:
        with node.pause:
            begun.set()
            time.sleep(1.5)

    stalling = threading.Thread(target=stall)
    stalling.start()
    assert begun.wait(5)
    result = run_load(LoadPlan(rate=100, seconds=1, score_share=0), PEOPLE, address, INSECURE)
    stalling.join()
    answered = result.kinds["read"].answered
    # A closed loop would have seen one slow call; here even the last that was due waited for a third of a second.
    assert answered.get_total_count() > 60
    assert answered.get_value_at_percentile(5) > 300_000
    assert answered.get_max_value() > answered.get_value_at_percentile(5) + 500_000


def test_a_deadline_that_passes_is_a_failure(node: Node, address: str) -> None:
    with node.pause:
        plan = LoadPlan(rate=20, seconds=0.5, score_share=0, timeout_s=0.3)
        result = run_load(plan, PEOPLE, address, INSECURE)
    reads = result.kinds["read"]
    assert set(reads.codes) == {"DEADLINE_EXCEEDED"}
    assert reads.answered.get_total_count() == 0
    assert reads.failed.get_min_value() >= 290_000


def test_calls_say_who_they_are(node: Node, address: str) -> None:
    security = CallSecurity(token=lambda: "secret")
    run_load(LoadPlan(rate=50, seconds=0.2, score_share=0), PEOPLE, address, security)
    assert node.tokens == {"Bearer secret"}


def test_what_cannot_be_asked_for_is_said_beforehand(node: Node, address: str) -> None:
    with pytest.raises(LoadError, match="lower --candidates"):
        run_load(LoadPlan(rate=1, seconds=1, candidates=101), PEOPLE, address, INSECURE)
    assert not node.scores
    with pytest.raises(LoadError, match="start the node"):
        run_load(LoadPlan(rate=1, seconds=1, score_share=0, timeout_s=0.3), PEOPLE, "127.0.0.1:1", INSECURE)


def test_users_and_items_come_from_the_store(tmp_path: Path) -> None:
    settings = StoreSettings(block_cache_mib=8, write_buffer_mib=4)
    store = PartitionStore.open(tmp_path / "p0", partition=0, settings=settings, memory=SharedMemory(settings))
    try:
        with pytest.raises(LoadError, match="publish actions first"):
            Population.of_stores([store])
        click = np.array([1, 1, 1], np.uint8)
        store.apply(
            ActionBatch.of(
                [b"b", b"a", b"c"],
                np.array([1, 2, 3]),
                np.array([9, 7, 7], np.uint64),
                click,
                click,
                VOCABULARY.kind_of_type[click],
                np.array([1, 2, 3]),
            ),
            offset=0,
        )
        found = Population.of_stores([store], max_users=2)
    finally:
        store.close()
    assert list(found.users) == ["a", "b"]
    assert found.items.tolist() == [7, 9]
