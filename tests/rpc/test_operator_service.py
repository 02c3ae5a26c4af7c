import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple, cast

import grpc
import numpy as np
import pytest

from lifeline.core.reasons import Reason
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.operator_service import SERVICE, OperatorService
from lifeline.rpc.status import Refusal
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.fingerprint import as_text
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.repository import CreatedSnapshot, SnapshotRepository
from lifeline.v1 import group_pb2, operator_pb2, operator_pb2_grpc
from tests.support.factories import SHAPE, open_follower, open_store
from tests.support.refusals import info_of
from tests.support.snapshots import fill

Request = operator_pb2.CreateSnapshotRequest


class ClusterStub:
    """A cluster as the test says."""

    address = "here:1"

    def held_partitions(self) -> list[operator_pb2.HeldPartition]:
        return [operator_pb2.HeldPartition(partition=3, role=operator_pb2.ROLE_STANDBY, state="following")]

    def placements(self) -> list[group_pb2.PlacedPartition]:
        return [group_pb2.PlacedPartition(partition=3, owner="there:1", standbys=["here:1"])]

    def fingerprints(self, partition: int) -> list[tuple[int, int]] | None:
        return [(10, 0xAB), (12, 1)] if partition == 3 else None


class Node(NamedTuple):
    stub: operator_pb2_grpc.OperatorServiceStub
    stores: dict[int, PartitionStore]
    directory: PartitionDirectory
    repository: SnapshotRepository


class Slow(SnapshotRepository):
    """Lets the test in between two files."""

    between: Callable[[Callable[[], None]], None] = staticmethod(lambda check: check())

    def create(
        self,
        store: PartitionStore,
        *,
        topic: str | None = None,
        topic_id: str = "",
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> CreatedSnapshot:
        def follow(done: int, total: int) -> None:
            self.between(lambda: progress(done, total))

        return super().create(store, topic=topic, topic_id=topic_id, progress=follow)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[EmbeddingTable]:
    opened = EmbeddingTable.open(tmp_path / "items")
    opened.apply(np.array([1], np.uint64), np.ones((1, 32), np.int8), np.ones(1, np.uint32), partition=0, offset=0)
    yield opened
    opened.close()


@pytest.fixture
def node(tmp_path: Path, table: EmbeddingTable) -> Iterator[Node]:
    stores = {number: open_store(tmp_path / f"partition-{number:05d}", SHAPE, partition=number) for number in (1, 3)}
    directory = PartitionDirectory(lambda _key: 3, table)
    for number, store in stores.items():
        fill(store, range(number))
        directory.add(store)
    repository = Slow(f"file://{tmp_path}/snapshots")
    with served(OperatorService(directory, repository, ClusterStub(), topic="actions")) as stub:
        yield Node(stub, stores, directory, repository)
    for store in stores.values():
        store.close()


class served:  # noqa: N801 - a context manager
    """A real gRPC server in this process, and its stub."""

    def __init__(self, service: OperatorService) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(service, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def __enter__(self) -> operator_pb2_grpc.OperatorServiceStub:
        return operator_pb2_grpc.OperatorServiceStub(self._channel)

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._server.stop(None).wait()


def refused(stub: operator_pb2_grpc.OperatorServiceStub, *partitions: int) -> tuple[grpc.StatusCode, str, str]:
    """Make a call that must fail; returns its code, reason and message."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateSnapshot(Request(partitions=partitions), timeout=20)
    call = cast("grpc.Call", caught.value)
    info = info_of(caught.value)
    assert info.domain == "lifeline"
    return call.code(), info.reason, call.details() or ""


def test_every_partition_gets_a_snapshot(node: Node) -> None:
    reply = node.stub.CreateSnapshot(Request(), timeout=20)
    assert [snapshot.partition for snapshot in reply.snapshots] == [1, 3]
    for snapshot in reply.snapshots:
        state = node.stores[snapshot.partition].state
        assert (snapshot.applied_offset, snapshot.events, snapshot.fingerprint) == (
            state.applied_offset,
            state.events,
            as_text(state.fingerprint),
        )
        (found,) = node.repository.snapshots(snapshot.partition)
        assert (found.id, found.problem) == (snapshot.snapshot_id, None)
        assert found.manifest is not None
        assert found.manifest.topic == "actions"
        assert (snapshot.files, snapshot.total_bytes) == (len(found.manifest.files), found.manifest.total_bytes)
        assert (snapshot.uploaded_files, snapshot.uploaded_bytes) == (snapshot.files, snapshot.total_bytes)
        assert snapshot.seconds > 0


def test_partitions_can_be_named(node: Node) -> None:
    reply = node.stub.CreateSnapshot(Request(partitions=[3, 3]), timeout=20)
    assert [snapshot.partition for snapshot in reply.snapshots] == [3]
    assert node.repository.partitions() == [3]
    assert node.stub.CreateSnapshot(Request(partitions=[3]), timeout=20).snapshots[0].uploaded_files <= 4


def test_a_partition_that_is_not_served_is_refused_before_anything_is_made(node: Node, tmp_path: Path) -> None:
    node.directory.remove(1)
    code, reason, message = refused(node.stub, 3, 1)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, Reason.NOT_OWNER)
    assert "does not serve partition 1: ask the node that does" in message
    assert node.repository.snapshots() == []
    # A partition that is only followed is written elsewhere.
    follower = open_follower(tmp_path / "partition-00001", partition=1)
    node.directory.add(follower)
    assert refused(node.stub, 1)[1] == Reason.NOT_OWNER
    follower.close()


def test_without_a_url_it_says_what_to_set(node: Node) -> None:
    with served(OperatorService(node.directory, None, ClusterStub(), topic="actions")) as stub:
        code, reason, message = refused(stub)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.SNAPSHOTS_NOT_CONFIGURED)
    assert "set snapshot.url" in message


def test_an_upload_that_fails_has_a_reason(node: Node, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    repository = SnapshotRepository(f"file://{tmp_path}/file/below")
    with served(OperatorService(node.directory, repository, ClusterStub(), topic="actions")) as stub:
        code, reason, message = refused(stub)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, Reason.SNAPSHOT_FAILED)
    assert "check the address" in message


def test_one_call_at_a_time_and_one_that_nobody_waits_for_ends(node: Node) -> None:
    entered, ended, end = threading.Event(), threading.Event(), time.monotonic() + 20

    def until_nobody_waits(check: Callable[[], None]) -> None:
        entered.set()
        while time.monotonic() < end:
            try:
                check()
            except Refusal:
                ended.set()
                raise
            ended.wait(0.005)

    slow = cast("Slow", node.repository)
    slow.between = until_nobody_waits
    call: Any = node.stub.CreateSnapshot.future(Request(), timeout=20)
    assert entered.wait(20)
    code, reason, message = refused(node.stub)
    assert (code, reason) == (grpc.StatusCode.ABORTED, Reason.SNAPSHOT_UNDER_WAY)
    assert "retry" in message
    call.cancel()
    assert ended.wait(20)
    slow.between = Slow.between
    # The next one is let in when the first has ended, and that has made nothing.
    while (made := attempt(node.stub)) is None:
        assert time.monotonic() < end
    assert [snapshot.id for snapshot in node.repository.snapshots()] == [made.snapshots[0].snapshot_id]


def attempt(stub: operator_pb2_grpc.OperatorServiceStub) -> operator_pb2.CreateSnapshotResponse | None:
    """Return the answer, or None where another call is under way."""
    try:
        return stub.CreateSnapshot(Request(partitions=[3]), timeout=20)
    except grpc.RpcError as error:
        if cast("grpc.Call", error).code() is grpc.StatusCode.ABORTED:
            return None
        raise


def test_the_service_has_the_name_of_the_proto() -> None:
    assert SERVICE == "lifeline.v1.OperatorService"


def test_what_is_held_and_where_the_rest_is(node: Node) -> None:
    found = node.stub.ListPartitions(operator_pb2.ListPartitionsRequest())
    assert (found.address, list(found.held), list(found.placed)) == (
        "here:1",
        ClusterStub().held_partitions(),
        ClusterStub().placements(),
    )


def test_fingerprints_come_as_text_and_of_another_partition_not_at_all(node: Node) -> None:
    found = node.stub.ListFingerprints(operator_pb2.ListFingerprintsRequest(partition=3)).fingerprints
    assert [(fingerprint.offset, fingerprint.fingerprint) for fingerprint in found] == [
        (10, f"{0xAB:032x}"),
        (12, f"{1:032x}"),
    ]
    with pytest.raises(grpc.RpcError, match="does not hold partition 4"):
        node.stub.ListFingerprints(operator_pb2.ListFingerprintsRequest(partition=4))
