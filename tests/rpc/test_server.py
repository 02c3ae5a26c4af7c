"""The gRPC server: limits, health, and failures nobody thought of."""

import mmap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.actions import Kind
from lifeline.core.errors import ServerError
from lifeline.rpc.memory_limit import MemoryLimit, available_memory, own_memory
from lifeline.rpc.server import LIVENESS, READINESS, SERVICES, NodeServer, Services
from lifeline.rpc.settings import NodeSettings
from tests.support.grpc_services import Scores, Sequences
from tests.support.http2 import END_HEADERS, HEADERS, PREFACE, SETTINGS, Raw, frame, headers
from tests.support.operators import Models, Operators
from tests.support.refusals import info_of


@pytest.fixture
def sequences() -> Sequences:
    return Sequences()


@pytest.fixture
def server(sequences: Sequences) -> Iterator[NodeServer]:
    settings = NodeSettings(grpc_address="127.0.0.1:0", max_concurrent_rpcs=2)
    running = NodeServer(settings, Services(sequences, Scores(), Operators(), Models()))
    yield running
    sequences.go.set()
    running.stop(5)


def health(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        reply: Any = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=5
        )
        return int(reply.status)


def test_one_call_too_many_is_refused_at_once_and_health_still_answers(
    server: NodeServer, sequences: Sequences
) -> None:
    with LifelineClient(server.address) as client, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(client.get_sequence, "u", timeout_s=30) for _ in range(2)]
        for _ in range(2):
            assert sequences.entered.acquire(timeout=10)
        with pytest.raises(LifelineError) as caught:
            client.get_sequence("u", timeout_s=0.5)
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert caught.value.metadata == {"limit": "2"}
        assert caught.value.retry_after_s == 0.1
        assert "retry" in caught.value.message
        assert health(server.address, LIVENESS) == health_pb2.HealthCheckResponse.SERVING
        sequences.go.set()
        for call in running:
            assert call.result(10).sequences[Kind.EXPLICIT].length == 0
        client.get_sequence("u")


def test_a_fault_of_the_node_has_a_reason_too(server: NodeServer) -> None:
    with LifelineClient(server.address) as client, pytest.raises(LifelineError) as caught:
        client.get_sequence("broken")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "ZeroDivisionError" in caught.value.message


def test_open_reflection_streams_shut_nobody_out(server: NodeServer, sequences: Sequences) -> None:
    sequences.go.set()
    never = threading.Event()

    def silent() -> Iterator[Any]:
        never.wait(30)
        yield from ()

    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        streams: list[Any] = [stub.ServerReflectionInfo(silent()) for _ in range(10)]
        deadline = time.monotonic() + 10
        while sum(stream.done() for stream in streams) < 6:
            assert time.monotonic() < deadline, "streams that are too many were not refused"
        ended = [stream for stream in streams if stream.done()]
        assert {stream.code() for stream in ended} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert len(ended) == 6
        assert health(server.address, LIVENESS) == health_pb2.HealthCheckResponse.SERVING
        with LifelineClient(server.address) as client:
            assert client.get_sequence("u").sequences[Kind.EXPLICIT].length == 0
        never.set()
        for stream in streams:
            stream.cancel()


def test_health_follows_readiness_and_liveness(server: NodeServer) -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    ready = ("", READINESS, *SERVICES)
    assert {health(server.address, service) for service in ready} == {not_serving}
    assert health(server.address, LIVENESS) == serving
    server.set_ready(ready=True)
    assert {health(server.address, service) for service in ready} == {serving}
    server.set_live(live=False)
    assert health(server.address, LIVENESS) == not_serving


def test_a_stop_lets_calls_finish(server: NodeServer, sequences: Sequences) -> None:
    with LifelineClient(server.address) as client, ThreadPoolExecutor(2) as pool:
        call = pool.submit(client.get_sequence, "u")
        assert sequences.entered.acquire(timeout=10)
        stopped = pool.submit(server.stop, 10)
        sequences.go.set()
        assert call.result(10).sequences[Kind.EXPLICIT].length == 0
        stopped.result(10)


def test_open_streams_and_silent_calls_do_not_delay_a_stop(sequences: Sequences) -> None:
    running = NodeServer(NodeSettings(grpc_address="127.0.0.1:0"), Services(sequences, Scores(), Operators(), Models()))
    never = threading.Event()

    def one_request() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        never.wait(120)

    silent_call = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, headers(running))
    with grpc.insecure_channel(running.address) as channel, Raw(running, silent_call), ThreadPoolExecutor(1) as pool:
        health_stub = health_pb2_grpc.HealthStub(channel)
        reflection_stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        services = [("", LIVENESS, READINESS, "no.such.Service")[number % 4] for number in range(60)]
        streams: list[Any] = [health_stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in services]
        streams += [reflection_stub.ServerReflectionInfo(one_request()) for _ in range(4)]
        for stream in streams:
            # It is under way.
            next(stream)
        with LifelineClient(running.address) as client:
            call = pool.submit(client.get_sequence, "u", timeout_s=60)
            assert sequences.entered.acquire(timeout=10)
            started = time.monotonic()
            wait = running.refuse_calls(120)
            for stream in streams:
                with pytest.raises(grpc.RpcError, match="the node stops") as caught:
                    next(stream)
                assert cast("grpc.Call", caught.value).code() is grpc.StatusCode.UNAVAILABLE
            assert not call.done()
            sequences.go.set()
            assert call.result(10).sequences[Kind.EXPLICIT].length == 0
            wait()
        # Any of them alone would have taken the two minutes.
        assert time.monotonic() - started < 60
        never.set()


def test_a_watch_is_told_each_change_of_its_service(server: NodeServer) -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch: Any = stub.Watch(health_pb2.HealthCheckRequest(service=READINESS))
        assert next(watch).status == not_serving
        server.set_ready(ready=False)
        server.set_live(live=False)
        server.set_ready(ready=True)
        assert next(watch).status == serving
        watch.cancel()
        unknown: Any = stub.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        unknown.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=10)
        assert cast("grpc.Call", caught.value).code() is grpc.StatusCode.NOT_FOUND


def test_a_port_in_use_is_one_sentence(server: NodeServer, sequences: Sequences) -> None:
    with pytest.raises(ServerError, match=r"cannot listen on .* set --grpc-address"):
        NodeServer(NodeSettings(grpc_address=server.address), Services(sequences, Scores(), Operators(), Models()))


def test_calls_of_users_are_refused_while_memory_is_short_and_those_of_operators_are_not(
    sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = [100 << 20]
    monkeypatch.setattr(MemoryLimit, "of", lambda mib: MemoryLimit(mib << 20, lambda: used[0]))
    settings = NodeSettings(grpc_address="127.0.0.1:0", max_memory_mib=99)
    running = NodeServer(settings, Services(sequences, Scores(), Operators(), Models()))
    sequences.go.set()
    try:
        with LifelineClient(running.address, retry=False) as client:
            with pytest.raises(LifelineError, match="the node uses 100 MiB, and its limit is 99") as caught:
                client.get_sequence("u")
            error = caught.value
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MEMORY_SHORT")
            assert error.may_pass
            assert error.retry_after_s == 1.0
            with pytest.raises(LifelineError, match="AssertionError"):
                client.list_partitions()
            assert health(running.address, LIVENESS) == health_pb2.HealthCheckResponse.SERVING
            used[0] = 99 << 20
            time.sleep(0.15)
            client.get_sequence("u")
    finally:
        running.stop(5)


def test_memory_is_what_the_process_holds_and_the_control_group_allows(tmp_path: Path) -> None:
    before = own_memory()
    # Not from the heap, which may have as much to give that the process holds already.
    held = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"x" * (64 << 20))
    assert own_memory() - before > 60 << 20
    held.close()
    assert own_memory(tmp_path / "nothing") == 0
    group = tmp_path / "memory.max"
    machine = available_memory(group)
    group.write_text("max\n")
    assert available_memory(group) == machine
    group.write_text("1048576\n")
    assert available_memory(group) == 1 << 20
    assert MemoryLimit.of(64).refusal() is not None
    assert MemoryLimit.of(None).refusal() is None


def test_watches_of_the_health_shut_nobody_out(server: NodeServer, sequences: Sequences) -> None:
    sequences.go.set()

    def answered(watch: Any) -> bool:
        try:
            return bool(next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        except grpc.RpcError as error:
            if info_of(error).reason != "OVERLOADED":
                raise
            return False

    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(200)]
        assert sum(map(answered, watches)) == 64
        with LifelineClient(server.address, timeout_s=60) as client:
            assert client.get_sequence("u").sequences[Kind.EXPLICIT].length == 0
        assert health(server.address, LIVENESS) == health_pb2.HealthCheckResponse.SERVING
        for watch in watches:
            watch.cancel()
        deadline = time.monotonic() + 60
        while not answered(stub.Watch(health_pb2.HealthCheckRequest())):
            assert time.monotonic() < deadline, "watches that ended still have their places"


def test_watches_that_come_and_go_do_not_lock_the_server_up(server: NodeServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for number in range(200):
            # As soon as it has begun, before it has, or once it has answered.
            watch: Any = stub.Watch(health_pb2.HealthCheckRequest(service=LIVENESS))
            if number % 3 == 0:
                next(watch)
            watch.cancel()
    assert health(server.address, LIVENESS) == health_pb2.HealthCheckResponse.SERVING
