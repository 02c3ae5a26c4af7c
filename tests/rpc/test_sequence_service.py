import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from lifeline.core.actions import ActionBatch, Kind
from lifeline.core.sequence import Column, SequenceQuery
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.sequence_service import SERVICE, SequenceService, parse_query
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.partition import PartitionStore
from lifeline.v1 import sequence_pb2, sequence_pb2_grpc
from tests.support.factories import Event, batch_of, open_store, tiny
from tests.support.sequence_server import Refused, refused, served

Request = sequence_pb2.GetSequenceRequest
EXPLICIT, IMPRESSION = sequence_pb2.KIND_EXPLICIT, sequence_pb2.KIND_IMPRESSION
EVENTS = [Event(b"ann", 10 * at, 1 << 63 | at, (at % 3 + 1) << 8 | at % 2, Kind(at == 7)) for at in range(8)]


class Node(NamedTuple):
    stub: sequence_pb2_grpc.SequenceServiceStub
    store: PartitionStore
    directory: PartitionDirectory


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    table = EmbeddingTable.open(tmp_path / "items")
    ids = np.array([1 << 63], np.uint64)
    table.apply(ids, np.full((1, 32), -5, np.int8), np.ones(1, np.uint32), partition=0, offset=0)
    store = open_store(tmp_path / "p", tiny(max_explicit=2_000, chunk_events=64, inline_events=32))
    store.apply(batch_of(EVENTS), offset=4)
    directory = PartitionDirectory(lambda key: 8 if key == b"elsewhere" else 3, table)
    directory.add(store)
    with served(SequenceService(directory, max_reply_bytes=10_000)) as stub:
        yield Node(stub, store, directory)
    store.close()
    table.close()


def get(node: Node, *, timeout: float = 20, **fields: Any) -> sequence_pb2.GetSequenceResponse:
    return node.stub.GetSequence(Request(user_id="ann", **fields), timeout=timeout)


def refuse(node: Node, *, timeout: float = 20, **fields: Any) -> Refused:
    found = refused(node.stub, Request(**({"user_id": "ann"} | fields)), timeout)
    assert found.domain == "lifeline"
    return found


def test_columns_are_packed_little_endian(node: Node) -> None:
    reply = get(node, kinds=[IMPRESSION, EXPLICIT], columns=[1, 2, 3, 4, 5])
    assert [sequence.kind for sequence in reply.sequences] == [IMPRESSION, EXPLICIT]
    assert (reply.as_of.partition, reply.as_of.applied_offset, reply.as_of.watermark_ms) == (3, 4, 70)
    for sequence, events in zip(reply.sequences, ([EVENTS[7]], EVENTS[:7]), strict=True):
        assert sequence.length == sequence.stored == len(events)
        assert np.frombuffer(sequence.timestamp_ms, "<i8").tolist() == [event.timestamp_ms for event in events]
        assert np.frombuffer(sequence.item_id, "<u8").tolist() == [event.item_id for event in events]
        assert list(sequence.action_type) == [event.code >> 8 for event in events]
        assert list(sequence.surface) == [event.code & 255 for event in events]
        embedding = np.frombuffer(sequence.embedding, np.int8).reshape(-1, 32)
        assert embedding.tolist() == [[-5 if event.item_id == 1 << 63 else 0] * 32 for event in events]


def test_a_bare_request_gives_the_explicit_events_without_embeddings(node: Node) -> None:
    (sequence,) = get(node).sequences
    assert (sequence.kind, sequence.length) == (EXPLICIT, 7)
    assert sequence.embedding == b""
    assert len(sequence.item_id) == 56


def test_columns_that_were_not_asked_for_are_empty(node: Node) -> None:
    (sequence,) = get(node, columns=[sequence_pb2.COLUMN_SURFACE]).sequences
    assert len(sequence.surface) == sequence.length == 7
    assert (sequence.timestamp_ms, sequence.item_id, sequence.action_type) == (b"", b"", b"")


def test_filters_and_newest(node: Node) -> None:
    (sequence,) = get(node, newest=2, from_timestamp_ms=0, to_timestamp_ms=60, action_types=[1, 2]).sequences
    assert np.frombuffer(sequence.timestamp_ms, "<i8").tolist() == [30, 40]
    assert (sequence.length, sequence.stored) == (2, 7)
    assert get(node, from_timestamp_ms=0, to_timestamp_ms=0).sequences[0].length == 0


def test_a_user_that_nobody_knows_is_no_error(node: Node) -> None:
    reply = node.stub.GetSequence(Request(user_id="nobody"), timeout=20)
    assert (reply.sequences[0].length, reply.sequences[0].stored) == (0, 0)
    assert reply.as_of.applied_offset == 4


@pytest.mark.parametrize(
    ("fields", "reason", "field", "advice"),
    [
        ({"user_id": ""}, "USER_ID_INVALID", "user_id", "give 1 to 256 bytes"),
        ({"user_id": "x" * 257}, "USER_ID_INVALID", "user_id", "give 1 to 256 bytes"),
        ({"kinds": [EXPLICIT, EXPLICIT]}, "FIELD_INVALID", "kinds", "list each once"),
        ({"kinds": [0, EXPLICIT]}, "FIELD_INVALID", "kinds", "list each once"),
        ({"kinds": [9]}, "FIELD_INVALID", "kinds", "use KIND_EXPLICIT"),
        ({"columns": [0]}, "FIELD_INVALID", "columns", "use a value of the enum"),
        ({"columns": [77]}, "FIELD_INVALID", "columns", "use a value of the enum"),
        ({"action_types": [0]}, "FIELD_INVALID", "action_types", "1 to 64"),
        ({"action_types": [1, 65]}, "FIELD_INVALID", "action_types", "1 to 64"),
        ({"from_timestamp_ms": 2, "to_timestamp_ms": 1}, "FIELD_INVALID", "from_timestamp_ms", "swap them"),
        ({"from_timestamp_ms": 1_700_000_000}, "FIELD_INVALID", "from_timestamp_ms", "a time of seconds"),
        ({"to_timestamp_ms": 1_700_000_000}, "FIELD_INVALID", "to_timestamp_ms", "give it in milliseconds"),
        ({"min_offset": -1}, "FIELD_INVALID", "min_offset", "0 or more"),
    ],
)
def test_a_field_that_means_nothing_is_refused(
    node: Node, fields: dict[str, Any], reason: str, field: str, advice: str
) -> None:
    found = refuse(node, **fields)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert found.metadata == {"field": field}
    assert found.message.startswith(f"{field}: ")
    assert advice in found.message


def test_another_node_s_user_is_refused(node: Node) -> None:
    found = refuse(node, user_id="elsewhere")
    assert (found.code, found.reason, found.metadata) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER", {"partition": "8"})


def test_a_reply_that_is_too_large_is_refused_and_says_how_to_ask(node: Node) -> None:
    node.store.apply(batch_of([Event(b"ann", at, at, 257) for at in range(1_000)]), offset=5)
    found = refuse(node)
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REPLY_TOO_LARGE")
    assert int(found.metadata["bytes"]) > int(found.metadata["limit"]) == 10_000
    assert "request fewer events" in found.message
    assert get(node, newest=500).sequences[0].length == 500


def test_min_offset_waits_for_the_offset(node: Node) -> None:
    replies: list[sequence_pb2.GetSequenceResponse] = []
    asking = threading.Thread(target=lambda: replies.append(get(node, min_offset=6)))
    asking.start()
    node.store.apply(batch_of([Event(b"ann", 500, 1, 257)]), offset=5)
    assert not replies
    node.store.apply(ActionBatch.empty(), offset=6)
    asking.join(20)
    assert replies[0].sequences[0].length == 8
    assert replies[0].as_of.applied_offset == 6


def test_an_offset_that_does_not_come_in_time_is_a_deadline(node: Node) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(node, min_offset=99, timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_broken_store_is_data_loss_or_unavailable(node: Node) -> None:
    node.store.apply(batch_of([Event(b"ann", at, at, 257) for at in range(200)]), offset=5)
    chunks = node.store.database.chunks
    for key in list(chunks.keys()):
        chunks[key] = b"broken"
    found = refuse(node)
    assert (found.code, found.reason) == (grpc.StatusCode.DATA_LOSS, "STATE_CORRUPT")
    assert "partition 3, user ann" in found.message
    node.store.close()
    found = refuse(node)
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
    node.directory.remove(3, "the log starts at 9: restore a snapshot")
    found = refuse(node)
    assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_SERVING")
    assert "restore a snapshot" in found.message
    node.directory.remove(3)
    assert refuse(node).reason == "NOT_OWNER"


def test_a_query_is_what_the_request_says() -> None:
    assert parse_query(Request()) == SequenceQuery(action_types=frozenset())
    assert parse_query(
        Request(
            kinds=[IMPRESSION],
            newest=9,
            from_timestamp_ms=-1,
            to_timestamp_ms=0,
            action_types=[64, 1],
            columns=[sequence_pb2.COLUMN_EMBEDDING, sequence_pb2.COLUMN_ITEM_ID, sequence_pb2.COLUMN_EMBEDDING],
        )
    ) == SequenceQuery((Kind.IMPRESSION,), 9, -1, 0, frozenset({1, 64}), Column.ITEM_ID | Column.EMBEDDING)
    assert SERVICE == "lifeline.v1.SequenceService"
