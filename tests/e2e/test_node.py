"""A node and its log, record by record: dead letters, erasure, the cap, and what gRPC answers."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaProducer
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.actions import Identity, Kind
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.sequence import Column, SequenceQuery
from lifeline.core.topics import create_topics, delete_topics
from lifeline.dev.node_process import NodeProcess
from lifeline.producer.producer import LifelineProducer
from lifeline.sources.history import History
from lifeline.v1.action_pb2 import Action
from lifeline.v1.item_pb2 import Item
from lifeline.v1.sequence_pb2 import GetSequenceRequest, GetSequenceResponse
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub
from tests.conftest import settings_of
from tests.e2e.conftest import READY_S, NodeMaker, node_maker
from tests.support.refusals import info_of
from tests.support.states import states

pytestmark = pytest.mark.kafka
NOW_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Running:
    """A node over topics of its own, a client, and producers."""

    node: NodeProcess
    client: LifelineClient
    producer: LifelineProducer
    raw: KafkaProducer
    kafka: KafkaSettings

    def identities(self, user: str, offset: int) -> list[Identity]:
        return self.client.get_sequence(user, min_offset=offset).sequences[Kind.EXPLICIT].identities()

    def send_raw(self, key: bytes, value: bytes | None, partition: int | None = None) -> tuple[int, int]:
        number = partition_of(key, self.kafka.partitions) if partition is None else partition
        at = self.raw.send(
            self.kafka.actions_topic, value=value, key=key, partition=number, headers=[("trace", b"\x00\xff")]
        ).get(30)
        return at.partition, at.offset


@contextmanager
def running_node(topics: KafkaSettings, make: NodeMaker) -> Iterator[Running]:
    create_topics(topics)
    node = make(topics, store__max_explicit=16_384)
    node.start()
    node.wait_ready(READY_S)
    raw = KafkaProducer(bootstrap_servers=topics.servers, acks="all", max_request_size=4 << 20)
    with (
        LifelineClient(node.address, timeout_s=30) as client,
        LifelineProducer(node.settings.kafka, vocabulary=node.settings.vocabulary) as producer,
    ):
        yield Running(node, client, producer, raw, node.settings.kafka)
    raw.close()


@pytest.fixture
def running(kafka_settings: KafkaSettings, make_node: NodeMaker) -> Iterator[Running]:
    """A node of one test's own."""
    with running_node(kafka_settings, make_node) as found:
        yield found


@pytest.fixture(scope="module")
def shared(bootstrap_servers: str, history: History, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A node for the tests that leave it as it was, each with users of its own: a start takes seconds."""
    with (
        node_maker(tmp_path_factory.mktemp("shared"), history) as make,
        running_node(settings_of(bootstrap_servers), make) as found,
    ):
        yield found


def action(user: str, item: int = 7, at_ms: int = NOW_MS, kind: int = 1, surface: int = 1) -> Action:
    return Action(user_id=user, item_id=item, timestamp_ms=at_ms, action_type=kind, surface=surface)


def test_bad_records_become_dead_letters_and_the_partition_goes_on(shared: Running) -> None:
    user, key = "u1", b"u1"
    partition = partition_of(key, shared.kafka.partitions)
    good = action(user)
    bad: dict[str, tuple[bytes, bytes, int]] = {
        "undecodable": (key, b"\xff\xfe garbage", partition),
        "misrouted": (key, good.SerializeToString(), (partition + 1) % shared.kafka.partitions),
        "far_future": (key, action(user, at_ms=32_503_680_000_000).SerializeToString(), partition),
        "unknown_action_type": (key, action(user, kind=60).SerializeToString(), partition),
        "oversized": (key, bytes(2 << 20), partition),
    }
    sent = {reason: shared.send_raw(*record) for reason, record in bad.items()}
    at = shared.producer.publish(good).result(30)
    # A bare and a framed value are the same action, so only one more event comes of the framed other one.
    framed = action(user, item=8)
    for header in (b"\x00\x00\x00\x00\x2a\x00", b"\x00\x00\x00\x00\x2a\x02\x00"):
        _, offset = shared.send_raw(key, header + framed.SerializeToString())
    assert at.partition == partition
    assert shared.identities(user, offset) == [Identity(NOW_MS, 7, 257), Identity(NOW_MS, 8, 257)]

    letters = read_dead_letters(shared.kafka, len(bad))
    assert {
        reason: (letter.partition, headers(letter)["__connect.errors.offset"]) for reason, letter in letters.items()
    } == {reason: (number, str(offset).encode()) for reason, (number, offset) in sent.items()}
    for reason, letter in letters.items():
        assert (letter.key, letter.value) == bad[reason][:2]
        assert letter.headers[0] == ("trace", b"\x00\xff")
        assert headers(letter)["__connect.errors.topic"] == shared.kafka.actions_topic.encode()
        assert {f"__connect.errors.{n}" for n in ("stage", "exception.class.name", "exception.message")} <= set(
            headers(letter)
        )


def read_dead_letters(kafka: KafkaSettings, count: int) -> dict[str, Any]:
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.servers, auto_offset_reset="earliest", max_partition_fetch_bytes=8 << 20
    )
    try:
        consumer.assign([TopicPartition(kafka.dead_letter_topic, number) for number in range(kafka.partitions)])
        found: dict[str, Any] = {}
        deadline = time.monotonic() + 30
        while len(found) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=200).values():
                found |= {headers(record)["lifeline.reason"].decode(): record for record in records}
        return found
    finally:
        consumer.close()


def headers(record: Any) -> dict[str, bytes]:
    return dict(record.headers)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_batches_of_other_producers_are_read_whatever_they_compress_with(shared: Running, codec: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=shared.kafka.servers, compression_type=codec, acks="all")
    await producer.start()
    try:
        key = codec.encode()
        sent = await producer.send_and_wait(
            shared.kafka.actions_topic,
            action(codec).SerializeToString(),
            key=key,
            partition=partition_of(key, shared.kafka.partitions),
        )
    finally:
        await producer.stop()
    assert shared.identities(codec, sent.offset) == [Identity(NOW_MS, 7, 257)]


def test_a_null_value_erases_and_later_actions_are_kept(shared: Running) -> None:
    shared.producer.publish(action("gone", 1)).result(30)
    other = shared.producer.publish(action("stays", 1)).result(30)
    shared.producer.publish(action("gone", 2)).result(30)
    erased = shared.producer.erase("gone").result(30)
    assert shared.identities("gone", erased.offset) == []
    again = shared.producer.publish(action("gone", 1)).result(30)
    assert shared.identities("gone", again.offset) == [Identity(NOW_MS, 1, 257)]
    assert shared.identities("stays", other.offset) == [Identity(NOW_MS, 1, 257)]


def test_the_cap_keeps_the_newest_whatever_the_order(fresh_topics: KafkaSettings, make_node: NodeMaker) -> None:
    actions = [action("u", item, at_ms=NOW_MS + item // 3) for item in range(20_000)]
    found = []
    for name, order in (("forward", actions), ("shuffled", random.Random(3).sample(actions, len(actions)))):
        topics = fresh_topics.model_copy(update={"actions_topic": f"{fresh_topics.actions_topic}-{name}"})
        create_topics(topics)
        node = make_node(topics, name)
        with LifelineProducer(node.settings.kafka) as producer:
            for message in order:
                delivery = producer.publish(message)
            producer.flush()
            offset = delivery.result(30).offset
        node.start()
        node.wait_ready(READY_S)
        with LifelineClient(node.address, timeout_s=30) as client:
            sequence = client.get_sequence("u", min_offset=offset).sequences[Kind.EXPLICIT]
        found.append((sequence.identities(), next(s for s in states(node.settings).values() if s.events).fingerprint))
        node.kill()
    assert found[0][0] == [Identity(NOW_MS + item // 3, item, 257) for item in range(20_000 - 16_384, 20_000)]
    assert found[0] == found[1]


def test_items_give_embeddings_and_a_later_one_wins(shared: Running) -> None:
    first, second = bytes(range(32)), bytes(range(1, 33))
    at = shared.producer.publish(action("u", 5), embedding=first).result(30)
    shared.producer.publish_item(Item(item_id=5, embedding=second, embedding_version=2)).result(30)
    query = SequenceQuery(columns=Column.ALL)
    deadline, seen = time.monotonic() + 20, b""
    while seen != second and time.monotonic() < deadline:
        embedding = shared.client.get_sequence("u", query, min_offset=at.offset).sequences[Kind.EXPLICIT].embedding
        assert embedding is not None
        seen = embedding[0].tobytes()
    assert seen == second


def test_a_grpc_client_without_our_protos_lists_services_and_reads(shared: Running) -> None:
    at = shared.producer.publish(action("reflected", 9)).result(30)
    with grpc.insecure_channel(shared.node.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"lifeline.v1.SequenceService", "lifeline.v1.ScoreService", "grpc.health.v1.Health"} <= set(
            database.get_services()
        )
        pool = DescriptorPool(database)
        service = pool.FindServiceByName("lifeline.v1.SequenceService")
        method = service.methods_by_name["GetSequence"]
        ask, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=ask.SerializeToString,
            response_deserializer=answer.FromString,
        )
        reply = call(ask(user_id="reflected", min_offset=at.offset), timeout=10)
    assert reply.sequences[0].length == 1
    assert int.from_bytes(reply.sequences[0].item_id, "little") == 9
    assert reply.as_of.applied_offset >= at.offset


def test_every_refusal_has_a_code_a_reason_and_says_what_to_do(shared: Running) -> None:
    client = shared.client
    cases = (
        (lambda: client.get_sequence(""), "INVALID_ARGUMENT", "USER_ID_INVALID"),
        (lambda: client.get_sequence("u", min_offset=10**6, timeout_s=1), "DEADLINE_EXCEEDED", "OFFSET_NOT_REACHED"),
        (lambda: client.get_sequence("u", min_offset=10**9, timeout_s=1), "OUT_OF_RANGE", "OFFSET_BEYOND_LOG"),
        (lambda: client.score("u", [1]), "FAILED_PRECONDITION", "MODEL_NOT_LOADED"),
        (lambda: client.score("u", []), "INVALID_ARGUMENT", "CANDIDATES_INVALID"),
        # Too many for one request: the client learns so, and the first part is refused for want of a model.
        (lambda: client.score("u", list(range(513))), "FAILED_PRECONDITION", "MODEL_NOT_LOADED"),
        (lambda: client.score("u", [1], surface=99), "INVALID_ARGUMENT", "FIELD_INVALID"),
    )
    for call, code, reason in cases:
        with pytest.raises(LifelineError) as caught:
            call()
        assert caught.value.code.name == code
        assert caught.value.reason == reason
        assert ":" in caught.value.message


def test_a_caller_that_goes_frees_its_place(shared: Running) -> None:
    with (
        grpc.insecure_channel(shared.node.address) as channel,
        LifelineClient(shared.node.address, retry=False) as client,
    ):
        stub = SequenceServiceStub(channel)

        def wait() -> "grpc.Future[GetSequenceResponse]":
            return stub.GetSequence.future(GetSequenceRequest(user_id="u", min_offset=10**6), timeout=60)

        waiting = [wait() for _ in range(shared.node.settings.node.wait_places)]
        deadline = time.monotonic() + 20
        while may_wait(client):
            assert time.monotonic() < deadline, "the calls never took every place"
            # A call that came while the question itself held the last place was refused: it comes again.
            waiting = [wait() if call.done() else call for call in waiting]
        client.get_sequence("u")
        for call in waiting:
            call.cancel()
        while not may_wait(client):
            assert time.monotonic() < deadline, "cancelled calls still hold their places"


def may_wait(client: LifelineClient) -> bool:
    """Say whether a call that waits finds a place."""
    with pytest.raises(LifelineError) as caught:
        client.get_sequence("u", min_offset=10**6, timeout_s=0.1)
    assert caught.value.reason in {"OFFSET_NOT_REACHED", "WAITS_FULL", ""}
    return caught.value.reason != "WAITS_FULL"


def test_error_info_comes_in_the_status_details(shared: Running) -> None:
    with grpc.insecure_channel(shared.node.address) as channel:
        stub = SequenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetSequence(GetSequenceRequest(), timeout=10)
    info = info_of(caught.value)
    assert (info.reason, info.domain) == ("USER_ID_INVALID", "lifeline")


def cli(*arguments: str, node: NodeProcess | None = None) -> subprocess.CompletedProcess[str]:
    config = ("--config", str(node.config)) if node else ()
    return subprocess.run(
        [sys.executable, "-m", "lifeline", *arguments, *config], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_commands_read_what_was_published(shared: Running) -> None:
    at = shared.producer.publish(action("typed", 11)).result(30)
    got = cli("get", "typed", "--min-offset", str(at.offset), "--json", node=shared.node)
    assert got.returncode == 0, got.stderr
    answer = json.loads(got.stdout)
    name = shared.node.settings.vocabulary.action_type_names[1]
    assert (answer["item_id"], answer["action_type"], answer["stored"]) == ([11], [name], 1)
    assert cli("health", node=shared.node).returncode == 0
    erased = cli("erase", "typed", "--yes", "--json", node=shared.node)
    assert erased.returncode == 0, erased.stderr
    assert shared.identities("typed", json.loads(erased.stdout)["offset"]) == []


def test_load_is_made_of_the_users_and_items_of_the_running_node(running: Running, tmp_path: Path) -> None:
    delivery = None
    for number in range(40):
        delivery = running.producer.publish(action(f"user{number % 8}", item=number, at_ms=NOW_MS + number))
    assert delivery is not None
    running.producer.flush(30)
    for number in range(8):
        offset = running.producer.publish(action(f"user{number}", item=99)).result(30).offset
        running.client.get_sequence(f"user{number}", min_offset=offset)
    command = [sys.executable, "-m", "lifeline", "load", "--config", str(running.node.config), "--json"]
    command += ["--rate", "60", "--seconds", "2", "--scores", "0.5", "--candidates", "8"]
    command += ["--percentiles", str(tmp_path / "percentiles")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    answer = json.loads(done.stdout)
    assert "8 users, 41 items" in done.stderr
    reads, scores = answer["calls"]["read"], answer["calls"]["score"]
    assert reads["answered"] > 20
    assert reads["failed"] == {}
    assert 0 < reads["latency_ms"]["p50"] <= reads["latency_ms"]["max"]
    # There is no model: each is told so, and counted.
    assert scores["answered"] == 0
    assert set(scores["failed"]) == {"FAILED_PRECONDITION"}
    assert "#[Mean" in (tmp_path / "percentiles" / "read.hgrm").read_text()
    shown = subprocess.run(
        [part for part in command if part != "--json"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "answered/s" in shown.stdout
    assert "FAILED_PRECONDITION" in shown.stdout


def test_a_second_node_in_the_same_directory_is_refused(shared: Running) -> None:
    second = cli("node", node=shared.node)
    assert second.returncode == 1
    assert "in use by a running node" in second.stderr


def stop_insistently(node: NodeProcess) -> int:
    """Ask for the stop again and again, up to the last moment of the process."""
    asked = threading.Event()

    def ask() -> None:
        with suppress(ProcessLookupError):
            while not asked.wait(0.005):
                os.kill(pid, signal.SIGTERM)

    pid = node.pid
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return node.stop()
    finally:
        asked.set()
        asking.join()


def test_a_stop_is_graceful_and_a_missing_cluster_is_one_sentence(running: Running) -> None:
    assert stop_insistently(running.node) == 0
    # SIGTERM is heard while it starts, too: here a cluster that takes the call and never answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        starting = subprocess.Popen(
            [
                *(sys.executable, "-m", "lifeline", "node", "--config", str(running.node.config)),
                *("--bootstrap-servers", f"127.0.0.1:{port}"),
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            silent.settimeout(60)
            with silent.accept()[0]:
                starting.send_signal(signal.SIGTERM)
                assert starting.wait(15) == 0
        finally:
            starting.kill()
            starting.wait()
    lost = cli("node", "--bootstrap-servers", "127.0.0.1:1", "--data-dir", f"/tmp/lifeline-{uuid.uuid4().hex}")
    assert lost.returncode == 1
    assert "Kafka at 127.0.0.1:1 does not answer" in lost.stderr
    assert "Traceback" not in lost.stderr


def test_a_node_whose_topic_was_made_anew_does_not_go_on_in_the_middle_of_it(running: Running) -> None:
    assert running.node.stop() == 0
    delete_topics(running.node.settings.kafka)
    refused = cli("node", "--config", str(running.node.config))
    assert refused.returncode == 1
    assert "the topic was created again, or this is another cluster" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
