"""The gRPC service for operators: snapshots, partitions, fingerprints."""

import threading
from collections.abc import Sequence
from typing import Protocol

import grpc
import structlog

from lifeline.core.reasons import Reason
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.status import Refusal
from lifeline.rpc.validation import abort_on_refusal, check_active, check_deadline
from lifeline.store.errors import NotOwnerError
from lifeline.store.fingerprint import as_text
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.repository import CreatedSnapshot, SnapshotRepository
from lifeline.v1 import group_pb2, operator_pb2, operator_pb2_grpc

SERVICE = operator_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name

_log = structlog.get_logger(__name__)


class Cluster(Protocol):
    """A node's view of itself and of its group. Every method may be called from any thread."""

    @property
    def address(self) -> str:
        """host:port at which others reach the node."""

    def held_partitions(self) -> Sequence[operator_pb2.HeldPartition]:
        """Return the partitions that the node holds, ascending."""

    def placements(self) -> Sequence[group_pb2.PlacedPartition]:
        """Return owner and standbys of every partition, ascending, as far as the node knows."""

    def fingerprints(self, partition: int) -> Sequence[tuple[int, int]] | None:
        """Return (offset, fingerprint of everything below it), ascending; None for a partition that is not held."""


class OperatorService(operator_pb2_grpc.OperatorServiceServicer):
    """Serves the partitions of a directory. A caller cannot choose the destination of snapshots."""

    def __init__(
        self,
        directory: PartitionDirectory,
        snapshots: SnapshotRepository | None,
        cluster: Cluster,
        *,
        topic: str,
        topic_id: str = "",
    ) -> None:
        """`snapshots` is None where snapshot.url is not configured; `topic` is the actions topic, with its id."""
        self._directory, self._snapshots, self._cluster = directory, snapshots, cluster
        self._topic, self._topic_id = topic, topic_id
        self._snapshot_lock = threading.Lock()

    def CreateSnapshot(  # noqa: N802 - the name of the method on the wire
        self, request: operator_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> operator_pb2.CreateSnapshotResponse:
        """Implement CreateSnapshot, as operator.proto defines it."""
        with abort_on_refusal(context):
            if self._snapshots is None:
                raise Refusal(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    Reason.SNAPSHOTS_NOT_CONFIGURED,
                    "the node's configuration has no URL for snapshots: set snapshot.url "
                    "(LIFELINE_SNAPSHOT__URL) and restart the node",
                )
            stores = self._stores(frozenset(request.partitions))
            if not self._snapshot_lock.acquire(blocking=False):
                raise Refusal(
                    grpc.StatusCode.ABORTED,
                    Reason.SNAPSHOT_UNDER_WAY,
                    "this node is creating a snapshot: retry when it has finished",
                )
            try:
                return operator_pb2.CreateSnapshotResponse(
                    snapshots=[self._create(self._snapshots, store, context) for store in stores]
                )
            finally:
                self._snapshot_lock.release()

    def ListPartitions(  # noqa: N802 - the name of the method on the wire
        self, request: operator_pb2.ListPartitionsRequest, context: grpc.ServicerContext
    ) -> operator_pb2.ListPartitionsResponse:
        """Implement ListPartitions, as operator.proto defines it."""
        del request
        with abort_on_refusal(context):
            return operator_pb2.ListPartitionsResponse(
                address=self._cluster.address, held=self._cluster.held_partitions(), placed=self._cluster.placements()
            )

    def ListFingerprints(  # noqa: N802 - the name of the method on the wire
        self, request: operator_pb2.ListFingerprintsRequest, context: grpc.ServicerContext
    ) -> operator_pb2.ListFingerprintsResponse:
        """Implement ListFingerprints, as operator.proto defines it."""
        with abort_on_refusal(context):
            fingerprints = self._cluster.fingerprints(request.partition)
            if fingerprints is None:
                raise NotOwnerError(request.partition)
            return operator_pb2.ListFingerprintsResponse(
                fingerprints=[
                    operator_pb2.PartitionFingerprint(offset=offset, fingerprint=as_text(fingerprint))
                    for offset, fingerprint in fingerprints
                ]
            )

    def _stores(self, partitions: frozenset[int]) -> list[PartitionStore]:
        """Return the open stores of `partitions`, of all served ones if empty; raises Refusal if one is not served."""
        serving = {store.partition: store for store in self._directory if isinstance(store, PartitionStore)}
        for number in sorted(partitions):
            if number not in serving:
                raise Refusal(
                    grpc.StatusCode.UNAVAILABLE,
                    Reason.NOT_OWNER,
                    f"this node does not serve partition {number}: ask the node that does, or retry when it serves",
                    partition=str(number),
                )
        return [store for number, store in serving.items() if not partitions or number in partitions]

    def _create(
        self, snapshots: SnapshotRepository, store: PartitionStore, context: grpc.ServicerContext
    ) -> operator_pb2.PartitionSnapshot:
        check_deadline(context)
        snapshot = snapshots.create(
            store,
            topic=self._topic,
            topic_id=self._topic_id,
            progress=lambda _done, _total: check_active(context),
        )
        message = _message(snapshot)
        _log.info(
            "snapshot",
            partition=message.partition,
            snapshot=message.snapshot_id,
            total_bytes=message.total_bytes,
            uploaded_bytes=message.uploaded_bytes,
            seconds=round(message.seconds, 3),
        )
        return message


def _message(snapshot: CreatedSnapshot) -> operator_pb2.PartitionSnapshot:
    manifest = snapshot.manifest
    return operator_pb2.PartitionSnapshot(
        partition=manifest.partition,
        snapshot_id=manifest.id,
        applied_offset=manifest.state.applied_offset,
        events=manifest.state.events,
        fingerprint=manifest.state.fingerprint,
        files=len(manifest.files),
        total_bytes=manifest.total_bytes,
        uploaded_files=snapshot.uploaded_files,
        uploaded_bytes=snapshot.uploaded_bytes,
        seconds=snapshot.seconds,
    )
