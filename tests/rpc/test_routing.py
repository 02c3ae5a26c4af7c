"""Two servers in one process: a call for the other one's user goes on to it, or its caller is told."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.metadata import OWNER, PARTITIONS
from lifeline.core.reasons import Reason
from lifeline.core.security import CallSecurity
from lifeline.rpc.owners import advertised_address
from lifeline.rpc.settings import EVERYWHERE, NodeSettings
from lifeline.rpc.status import Refusal
from lifeline.store.embeddings import EmbeddingTable
from lifeline.stream.placement import Placement
from lifeline.v1 import score_pb2, score_pb2_grpc, sequence_pb2, sequence_pb2_grpc
from tests.support.routed_nodes import COUNT, USERS, Node, owned_by


@pytest.fixture
def table(tmp_path: Path) -> Iterator[EmbeddingTable]:
    opened = EmbeddingTable.open(tmp_path / "items")
    yield opened
    opened.close()


@pytest.fixture(params=["forward"])
def nodes(request: pytest.FixtureRequest, table: EmbeddingTable) -> Iterator[tuple[Node, Node]]:
    """The first has partition 0, the second the other ones; both know."""
    with ExitStack() as stack:
        pair = Node(stack, table, request.param), Node(stack, table, request.param)
        pair[0].directory.announce(0)
        for number in range(1, COUNT):
            pair[1].directory.announce(number)
        for node in pair:
            node.owners.update(owned_by(pair[0].address, *[pair[1].address] * (COUNT - 1)))
        yield pair


redirecting = pytest.mark.parametrize("nodes", ["redirect"], indirect=True)


def test_a_call_goes_on_to_the_owner_and_its_answer_comes_back(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    reply, metadata = first.call(USERS[2])
    assert (reply.as_of.partition, reply.as_of.lag_records) == (1, 9)
    assert (metadata[OWNER], metadata[PARTITIONS]) == (second.address, str(COUNT))
    assert first.services.asked == []
    ((user, marked, left_s),) = second.services.asked
    assert (user, marked) == (USERS[2], True)
    # gRPC rounds up what it writes of a deadline.
    assert 0 < left_s <= 62
    with grpc.insecure_channel(first.address) as channel:
        scored = score_pb2_grpc.ScoreServiceStub(channel).Score(score_pb2.ScoreRequest(user_id=USERS[1]), timeout=60)
    assert list(scored.heads) == ["click"]


def test_a_call_for_a_user_who_is_here_stays(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    _, metadata = first.call(USERS[0])
    assert OWNER not in metadata
    assert [(user, marked) for user, marked, _ in first.services.asked] == [(USERS[0], False)]
    assert second.services.asked == []


def test_what_the_owner_refuses_is_refused_in_its_own_words(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    second.services.refusal = Refusal(
        grpc.StatusCode.DATA_LOSS, Reason.STATE_CORRUPT, "set the directory aside", record="x"
    )
    code, info = first.refused(USERS[1])
    assert (code, info.reason, dict(info.metadata)) == (grpc.StatusCode.DATA_LOSS, "STATE_CORRUPT", {"record": "x"})


def test_no_call_travels_twice(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    # Each thinks that the other one has partition 3.
    second.directory.remove(3)
    second.owners.update(owned_by(*[first.address] * COUNT))
    code, info = first.refused(USERS[3])
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
    assert info.metadata["owner"] == first.address
    assert first.services.asked == second.services.asked == []


def test_the_deadline_goes_with_the_call(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    second.services.hold.clear()
    with pytest.raises(grpc.RpcError) as caught:
        first.call(USERS[1], timeout_s=0.5)
    assert cast("grpc.Call", caught.value).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert second.services.gone.wait(60)
    assert 0 < second.services.asked[0][2] <= 0.6


def test_a_caller_that_goes_takes_its_call_at_the_owner_with_it(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    second.services.hold.clear()
    with grpc.insecure_channel(first.address) as channel:
        call: Any = sequence_pb2_grpc.SequenceServiceStub(channel).GetSequence.future(
            sequence_pb2.GetSequenceRequest(user_id=USERS[1]), timeout=120
        )
        deadline = time.monotonic() + 60
        while not second.services.asked:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        call.cancel()
        assert second.services.gone.wait(60)


def test_an_owner_that_does_not_answer_is_named(nodes: tuple[Node, Node]) -> None:
    first, _ = nodes
    first.owners.update(owned_by(first.address, *["127.0.0.1:1"] * 3))
    code, info = first.refused(USERS[1])
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "OWNER_UNREACHABLE")
    assert dict(info.metadata) == {"partition": "1", "owner": "127.0.0.1:1"}


def test_an_owner_that_restarts_is_tried_every_second(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    options: dict[str, int] = {}
    channel = CallSecurity.channel

    def recorded(security: CallSecurity, address: str, given: Any, **more: Any) -> grpc.Channel:
        options.update(given)
        return channel(security, address, given, **more)

    monkeypatch.setattr(CallSecurity, "channel", recorded)
    first.call(USERS[1])
    assert len(second.services.asked) == 1
    # gRPC's own longest pause is two minutes.
    assert options["grpc.max_reconnect_backoff_ms"] == 1_000


def test_while_nobody_is_known_the_caller_is_told_to_come_again(nodes: tuple[Node, Node]) -> None:
    first, _ = nodes
    first.owners.update(Placement({}, {}, frozenset()))
    code, info = first.refused(USERS[1])
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
    assert dict(info.metadata) == {"partition": "1", "partitions": str(COUNT)}


def test_a_node_that_leaves_sends_callers_on_without_naming_itself(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    first.owners.leave()
    # Until its store is hidden, it answers.
    first.call(USERS[0])
    first.directory.remove(0)
    code, info = first.refused(USERS[0])
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
    assert "owner" not in info.metadata
    _, metadata = first.call(USERS[1])
    assert metadata[OWNER] == second.address


def test_a_partition_that_is_given_to_this_node_and_not_open_yet_is_catching_up(nodes: tuple[Node, Node]) -> None:
    first, _ = nodes
    first.owners.update(owned_by(*[first.address] * COUNT))
    assert first.refused(USERS[1])[1].reason == "CATCHING_UP"


def test_a_request_that_does_not_decode_is_the_callers_fault(nodes: tuple[Node, Node]) -> None:
    with grpc.insecure_channel(nodes[0].address) as channel:
        ask: Any = channel.unary_unary("/lifeline.v1.SequenceService/GetSequence", None, None)
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"\xff\xff\xff", timeout=60)
    assert cast("grpc.Call", caught.value).code() is grpc.StatusCode.INVALID_ARGUMENT


@redirecting
def test_redirecting_nodes_tell_who_has_the_user(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    code, info = first.refused(USERS[2])
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
    assert dict(info.metadata) == {"partition": "2", "partitions": str(COUNT), "owner": second.address}
    assert second.services.asked == []


@redirecting
def test_the_client_goes_where_it_is_told_and_remembers(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    with LifelineClient(first.address, timeout_s=60) as client:
        for _ in range(5):
            assert client.get_sequence(USERS[2]).as_of.lag_records == 9
        assert len(second.services.asked) == 5
        # Of a partition that was never asked for it has been told nothing yet.
        client.get_sequence(USERS[3])
        # It comes to the first node.
        first.directory.announce(2)
        second.directory.remove(2)
        for node in nodes:
            node.owners.update(owned_by(first.address, second.address, first.address, second.address))
        client.get_sequence(USERS[2])
        assert len(first.services.asked) == 1
    with (
        LifelineClient(first.address, timeout_s=1, follow=False) as client,
        pytest.raises(LifelineError, match=f"ask its owner at {second.address}"),
    ):
        client.get_sequence(USERS[3])


def test_the_client_spares_the_detour_once_a_connection_stands(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    with LifelineClient(first.address, timeout_s=60) as client:
        deadline = time.monotonic() + 60
        while not second.services.asked or second.services.asked[-1][1]:
            assert time.monotonic() < deadline
            client.get_sequence(USERS[2])
    with LifelineClient(first.address, timeout_s=60, follow=False) as client:
        for _ in range(20):
            client.get_sequence(USERS[2])
            assert second.services.asked[-1][1]


def test_an_owner_whose_address_cannot_be_reached_costs_nothing_where_nodes_forward(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    with LifelineClient(first.address, timeout_s=60) as client:
        client._owners.store(USERS[2], "192.0.2.1:1", str(COUNT))
        assert client.get_sequence(USERS[2], timeout_s=30).as_of.lag_records == 9
    assert second.services.asked[-1][1]


@pytest.mark.parametrize(
    ("configured", "bound", "advertised"),
    [
        ("shop-3.internal:50051", "0.0.0.0:50051", "shop-3.internal:50051"),
        ("", "10.0.0.7:50051", "10.0.0.7:50051"),
    ],
)
def test_the_address_that_others_are_told(configured: str, bound: str, advertised: str) -> None:
    assert advertised_address(NodeSettings(advertised_address=configured), bound) == advertised


@pytest.mark.parametrize("bound", ["0.0.0.0:50051", "[::]:50051"])
def test_all_interfaces_are_no_address(bound: str) -> None:
    host, _, port = advertised_address(NodeSettings(), bound).rpartition(":")
    assert port == "50051"
    assert host not in {"", *EVERYWHERE}
    with pytest.raises(ValueError, match="advertised_address"):
        NodeSettings(advertised_address=bound)
