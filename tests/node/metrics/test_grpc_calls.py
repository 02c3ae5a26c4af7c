from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client import CollectorRegistry

from lifeline.client import LifelineClient, LifelineError
from lifeline.node.metrics.catalogue import GRPC_SECONDS
from lifeline.node.metrics.grpc_calls import CallMetrics
from lifeline.rpc.server import NodeServer, Services
from lifeline.rpc.settings import NodeSettings
from tests.support.grpc_services import Scores, Sequences
from tests.support.operators import Models, Operators

HANDLED = "grpc_server_handled_total"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[NodeServer]:
    sequences = Sequences()
    sequences.go.set()
    settings = NodeSettings(grpc_address="127.0.0.1:0")
    running = NodeServer(settings, Services(sequences, Scores(), Operators(), Models()), calls=CallMetrics(registry))
    yield running
    running.stop(5)


def labels(service: str, method: str, kind: str = "unary") -> dict[str, str]:
    return {"grpc_type": kind, "grpc_service": service, "grpc_method": method}


def test_calls_are_counted_by_how_they_ended(server: NodeServer, registry: CollectorRegistry) -> None:
    get_sequence = labels("lifeline.v1.SequenceService", "GetSequence")
    with LifelineClient(server.address, timeout_s=60, retry=False) as client:
        for _ in range(3):
            client.get_sequence("ann")
        with pytest.raises(LifelineError):
            client.get_sequence("broken")
    assert registry.get_sample_value("grpc_server_started_total", get_sequence) == 4
    assert registry.get_sample_value(HANDLED, get_sequence | {"grpc_code": "OK"}) == 3
    assert registry.get_sample_value(HANDLED, get_sequence | {"grpc_code": "Internal"}) == 1
    assert registry.get_sample_value("grpc_server_handling_seconds_count", get_sequence) == 4
    for bound in GRPC_SECONDS.buckets:
        labelled = get_sequence | {"le": str(bound)}
        assert registry.get_sample_value("grpc_server_handling_seconds_bucket", labelled) is not None


def test_health_and_streams_are_counted_too(server: NodeServer, registry: CollectorRegistry) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert ProtoReflectionDescriptorDatabase(channel).get_services()
    check = labels("grpc.health.v1.Health", "Check")
    assert registry.get_sample_value(HANDLED, check | {"grpc_code": "OK"}) == 1
    reflection = labels("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", "bidi_stream")
    assert registry.get_sample_value("grpc_server_started_total", reflection) == 1
