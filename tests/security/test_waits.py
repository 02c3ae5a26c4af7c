"""Calls that wait for an offset, as many as their callers like: whoever does not wait is answered all the same."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.actions import ActionBatch
from lifeline.core.security import CallSecurity, SecuritySettings, token_hash
from lifeline.rpc.settings import NodeSettings
from lifeline.v1.score_pb2 import ScoreRequest
from lifeline.v1.score_pb2_grpc import ScoreServiceStub
from lifeline.v1.sequence_pb2 import GetSequenceRequest
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub
from tests.support.refusals import info_of
from tests.support.serving import ADDRESS, ELSEWHERE, Node, node_at

SETTINGS = NodeSettings(grpc_address=ADDRESS, max_concurrent_rpcs=8, max_waits=4)
AHEAD = 1_000
"""An offset that never comes, and may."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path, SETTINGS) as running:
        yield running


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextmanager
def waiting(address: str, calls: int, user: str = "ann", **metadata: str) -> Iterator[list[Any]]:
    """Make calls that wait for ever, half of them reads and half of them scores; cancel them in the end."""
    with grpc.insecure_channel(address) as channel:
        reads, scores = SequenceServiceStub(channel).GetSequence, ScoreServiceStub(channel).Score
        made: list[Any] = []
        for number in range(calls):
            if number % 2:
                request = ScoreRequest(user_id=user, item_id=[1], min_offset=AHEAD)
                made.append(scores.future(request, metadata=tuple(metadata.items())))
            else:
                made.append(
                    reads.future(GetSequenceRequest(user_id=user, min_offset=AHEAD), metadata=tuple(metadata.items()))
                )
        yield made
        for call in made:
            call.cancel()


def refusals(calls: list[Any], count: int) -> list[tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]]:
    """Return what so many of the calls are refused with, soon."""
    until(lambda: sum(call.done() for call in calls) >= count, "calls that are too many were not refused")
    return [(call.code(), info_of(call.exception())) for call in calls if call.done()]


def test_calls_that_wait_keep_nobody_from_being_answered(node: Node) -> None:
    # More than there are slots, threads, and places.
    with waiting(node.address, 40) as calls:
        found = refusals(calls, 38)
        assert len(found) == 38
        assert {(code, info.reason) for code, info in found} == {(grpc.StatusCode.RESOURCE_EXHAUSTED, "WAITS_FULL")}
        status = rpc_status.from_call(cast("grpc.Call", next(call for call in calls if call.done())))
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.ToTimedelta().total_seconds() == 0.5
        # One address has half of the places.
        assert node.waits.statistics() == (2, 38)
        with LifelineClient(node.address, retry=False, timeout_s=30) as client:
            for _ in range(20):
                assert client.get_sequence("ann").as_of.applied_offset == 0
                assert len(client.score("ann", [1]).score) == 1
                assert client.get_sequence("ann", min_offset=0).as_of.applied_offset == 0
        node.store.apply(ActionBatch.empty(), offset=AHEAD)
        left = [call for call in calls if not call.done()]
        assert [call.result(30).as_of.applied_offset for call in left] == [AHEAD, AHEAD]
        until(lambda: node.waits.statistics().waiting == 0, "calls that were answered still hold their places")


def test_a_caller_that_goes_frees_its_place(node: Node) -> None:
    for _ in range(3):
        with waiting(node.address, 2) as calls:
            until(lambda: node.waits.statistics().waiting == 2, "the calls do not wait")
            assert not any(call.done() for call in calls)
        until(lambda: node.waits.statistics().waiting == 0, "cancelled calls still hold their places")
    channel = grpc.insecure_channel(node.address)
    call = SequenceServiceStub(channel).GetSequence.future(GetSequenceRequest(user_id="ann", min_offset=AHEAD))
    until(lambda: node.waits.statistics().waiting == 1, "the call does not wait")
    channel.close()
    # The whole connection went.
    until(lambda: node.waits.statistics().waiting == 0, "calls of closed connections still hold their places")
    assert call.done()


def test_a_wait_without_a_deadline_ends(tmp_path: Path) -> None:
    with node_at(tmp_path, SETTINGS.model_copy(update={"max_wait_ms": 200})) as node, waiting(node.address, 2) as calls:
        for code, info in refusals(calls, 2):
            assert (code, info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "OFFSET_NOT_REACHED")


def test_an_offset_far_beyond_the_log_never_waits(node: Node) -> None:
    with LifelineClient(node.address, retry=False, timeout_s=30) as client:
        for read in (client.get_sequence, lambda user, **more: client.score(user, [1], **more)):
            with pytest.raises(LifelineError, match="last known offset of partition 3 is 0") as caught:
                read("ann", min_offset=10**9)
            assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_BEYOND_LOG")
    assert node.waits.statistics() == (0, 0)


def test_callers_with_names_have_half_of_the_places_each(tmp_path: Path) -> None:
    security = SecuritySettings.model_validate(
        {"callers": {name: {"token_sha256": token_hash(name)} for name in ("feed", "search")}}
    )
    with node_at(tmp_path, SETTINGS, security) as node, ExitStack() as stack:
        greedy = stack.enter_context(waiting(node.address, 10, authorization="Bearer feed"))
        assert len(refusals(greedy, 8)) == 8
        other = stack.enter_context(waiting(node.address, 2, authorization="Bearer search"))
        until(lambda: node.waits.statistics().waiting == 4, "the other caller has no place")
        assert not any(call.done() for call in other)
        search = CallSecurity.of(SecuritySettings.model_validate({"token": "search"}))
        with LifelineClient(node.address, retry=False, timeout_s=30, security=search) as client:
            client.get_sequence("ann")


def test_a_wait_at_another_node_has_a_place_at_both(tmp_path: Path) -> None:
    with node_at(tmp_path / "near", SETTINGS) as near, node_at(tmp_path / "far", SETTINGS) as far:
        far.directory._partition_of = lambda _key: 3
        near.send_elsewhere(far.address)
        with waiting(near.address, 6, ELSEWHERE) as calls:
            found = refusals(calls, 4)
            assert len(found) == 4
            assert {(code, info.reason) for code, info in found} == {(grpc.StatusCode.RESOURCE_EXHAUSTED, "WAITS_FULL")}
            until(lambda: near.waits.statistics().waiting == far.waits.statistics().waiting == 2, "not at both")
            for node in (near, far):
                with LifelineClient(node.address, retry=False, follow=False, timeout_s=30) as client:
                    client.get_sequence("ann")
                    client.get_sequence(ELSEWHERE)
                    client.get_sequence(ELSEWHERE, min_offset=0)
        until(lambda: near.waits.statistics().waiting == far.waits.statistics().waiting == 0, "places are held")


def test_a_wait_ends_once_the_node_has_given_the_partition_away(node: Node) -> None:
    with waiting(node.address, 2) as calls:
        until(lambda: node.waits.statistics().waiting == 2, "the calls do not wait")
        node.directory.remove(3)
        for code, info in refusals(calls, 2):
            assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
    assert node.waits.statistics().waiting == 0


def test_a_forwarded_wait_ends_when_the_node_stops_and_names_the_owner(tmp_path: Path) -> None:
    with node_at(tmp_path / "near", SETTINGS) as near, node_at(tmp_path / "far", SETTINGS) as far:
        far.directory._partition_of = lambda _key: 3
        near.send_elsewhere(far.address)
        with waiting(near.address, 2, ELSEWHERE) as calls:
            until(lambda: near.waits.statistics().waiting == far.waits.statistics().waiting == 2, "not at both")
            near.routing.end_waits()
            for code, info in refusals(calls, 2):
                assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
                assert info.metadata["owner"] == far.address
            until(lambda: far.waits.statistics().waiting == 0, "the owner still holds their places")


def test_a_forwarded_call_without_a_deadline_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.rpc.routing._OWNER_MARGIN_S", 0.2)
    settings = SETTINGS.model_copy(update={"max_wait_ms": 100})
    with (
        # It is connected to, and never answers.
        socket.create_server(("127.0.0.1", 0)) as silent,
        node_at(tmp_path, settings) as node,
        grpc.insecure_channel(node.address) as channel,
    ):
        node.send_elsewhere(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(grpc.RpcError) as caught:
            SequenceServiceStub(channel).GetSequence(GetSequenceRequest(user_id=ELSEWHERE))
        assert cast("grpc.Call", caught.value).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert info_of(caught.value).reason == "OWNER_UNREACHABLE"
