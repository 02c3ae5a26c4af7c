"""A node that stops: whoever holds a stream or a wait does not delay it, and others serve its users meanwhile."""

import os
import re
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any, cast
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lifeline.client import LifelineClient
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.metadata import OWNER
from lifeline.dev.node_process import NodeProcess
from lifeline.producer.producer import LifelineProducer
from lifeline.v1.action_pb2 import Action
from lifeline.v1.sequence_pb2 import GetSequenceRequest
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub
from tests.e2e.conftest import READY_S, NodeMaker
from tests.support.http2 import DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, Raw, frame, headers
from tests.support.refusals import info_of

pytestmark = pytest.mark.kafka

DEADLINE_S = 240
"""Calls get half of it, so anything that holds the stop takes two minutes."""
END_STREAM = 1
NO_WINDOW = struct.pack(">HI", 4, 0)
"""SETTINGS_INITIAL_WINDOW_SIZE: the node must not send a reply's data."""


def held_call(node: NodeProcess, user: str) -> Raw:
    """Read a user, and never take the reply."""
    request = GetSequenceRequest(user_id=user).SerializeToString()
    message = struct.pack(">BI", 0, len(request)) + request
    call = frame(HEADERS, END_HEADERS, 1, headers(node)) + frame(DATA, END_STREAM, 1, message)
    return Raw(node, PREFACE + frame(SETTINGS, 0, 0, NO_WINDOW) + call)


def is_running(pid: int) -> bool:
    """Say whether a process has not ended, even if nobody has waited for it yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_streams_and_waits_end_at_once_and_another_node_takes_the_partitions_meanwhile(
    fresh_topics: KafkaSettings, make_node: NodeMaker
) -> None:
    group = f"group-of-{fresh_topics.actions_topic}"
    leaver, heir = (
        make_node(fresh_topics, name, kafka__group_id=group, node__stop_deadline_s=DEADLINE_S)
        for name in ("leaver", "heir")
    )
    leaver.start()
    leaver.wait_ready(READY_S)
    with LifelineProducer(leaver.settings.kafka, vocabulary=leaver.settings.vocabulary) as producer:
        sent = {
            user: producer.publish(Action(user_id=user, item_id=1, timestamp_ms=1_700_000_000_000, action_type=1))
            for user in map(str, range(20))
        }
        offsets = {user: delivery.result(30).offset for user, delivery in sent.items()}
    heir.start()
    heir.wait_ready(READY_S)
    never = Event()

    def one_request() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        never.wait(DEADLINE_S)

    with grpc.insecure_channel(leaver.address) as channel, LifelineClient(heir.address, timeout_s=60) as client:
        watch: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=READY_S)
        # It gives a half of the partitions away first.
        assert any(reply.status == health_pb2.HealthCheckResponse.SERVING for reply in watch)
        user = user_at(leaver)
        stream: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(one_request())
        next(stream)
        wait: Any = SequenceServiceStub(channel).GetSequence.future(
            GetSequenceRequest(user_id=user, min_offset=offsets[user] + 1_000), timeout=DEADLINE_S
        )
        with held_call(leaver, user) as held:
            assert HEADERS in (kind for kind, _ in held.frames()), "the node does not answer the held call"
            until_it_waits(leaver)
            os.kill(leaver.pid, signal.SIGTERM)
            for ended in (watch, stream):
                with pytest.raises(grpc.RpcError) as caught:
                    list(ended)
                assert cast("grpc.Call", caught.value).code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.RpcError) as caught:
                wait.result(60)
            assert info_of(caught.value).reason == "NOT_OWNER"
            for name, offset in offsets.items():
                assert client.get_sequence(name, min_offset=offset).as_of.applied_offset >= offset
            assert {placed.owner for placed in client.list_partitions().placed} == {heir.address}
            assert is_running(leaver.pid), "the held call did not hold it"
        let_go = time.monotonic()
        assert leaver.stop() == 0
        assert time.monotonic() - let_go < 60
        never.set()


def user_at(node: NodeProcess) -> str:
    """Return a user whom the node itself serves."""
    with grpc.insecure_channel(node.address) as channel:
        for user in map(str, range(20)):
            _, call = SequenceServiceStub(channel).GetSequence.with_call(GetSequenceRequest(user_id=user), timeout=30)
            # A forwarded call names the owner.
            if not any(key == OWNER for key, _ in call.initial_metadata()):
                return user
    raise AssertionError("the node serves none of the users")


def until_it_waits(node: NodeProcess) -> None:
    """Return once a call waits for its offset at the node."""
    deadline = time.monotonic() + 30
    while not re.search(r"^lifeline_waits 1\b", scraped(node), re.MULTILINE):
        assert time.monotonic() < deadline, "the call does not wait"
        time.sleep(0.02)


def scraped(node: NodeProcess) -> str:
    with urlopen(f"http://{node.settings.node.http_address}/metrics", timeout=30) as reply:
        return str(reply.read().decode())
