"""gRPC for those who run the node: snapshots, and what it holds."""

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
    """What the node knows of itself and of its group; every method may be called from any thread."""

    @property
    def address(self) -> str:
        """host:port at which others reach the node."""

    def held_partitions(self) -> Sequence[operator_pb2.HeldPartition]:
        """Return what it holds, ascending by partition."""

    def placements(self) -> Sequence[group_pb2.PlacedPartition]:
        """Return where every partition is, ascending, as far as it knows."""

    def fingerprints(self, partition: int) -> Sequence[tuple[int, int]] | None:
        """Return (offset, fingerprint of what lies below) ascending; None of a partition that it does not hold."""


class OperatorService(operator_pb2_grpc.OperatorServiceServicer):
    """Works on the partitions of a directory. A caller cannot choose where snapshots go."""

    def __init__(
        self, directory: PartitionDirectory, snapshots: SnapshotRepository | None, cluster: Cluster, *, topic: str
    ) -> None:
        """Without `snapshots` the configuration names no place for them; `topic` is what the partitions follow."""
        self._directory, self._snapshots, self._cluster, self._topic = directory, snapshots, cluster, topic
        self._at_work = threading.Lock()

    def CreateSnapshot(  # noqa: N802 - the name of the method on the wire
        self, request: operator_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> operator_pb2.CreateSnapshotResponse:
        """Answer CreateSnapshot; operator.proto says how."""
        with abort_on_refusal(context):
            if self._snapshots is None:
                raise Refusal(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    Reason.SNAPSHOTS_NOT_CONFIGURED,
                    "the node's configuration names no place for snapshots: set snapshot.url "
                    "(LIFELINE_SNAPSHOT__URL) and start the node again",
                )
            stores = self._stores(frozenset(request.partitions))
            if not self._at_work.acquire(blocking=False):
                raise Refusal(
                    grpc.StatusCode.ABORTED,
                    Reason.SNAPSHOT_UNDER_WAY,
                    "this node is making a snapshot: retry when it is done",
                )
            try:
                return operator_pb2.CreateSnapshotResponse(
                    snapshots=[self._create(self._snapshots, store, context) for store in stores]
                )
            finally:
                self._at_work.release()

    def ListPartitions(  # noqa: N802 - the name of the method on the wire
        self, request: operator_pb2.ListPartitionsRequest, context: grpc.ServicerContext
    ) -> operator_pb2.ListPartitionsResponse:
        """Answer ListPartitions; operator.proto says how."""
        del request
        with abort_on_refusal(context):
            return operator_pb2.ListPartitionsResponse(
                address=self._cluster.address, held=self._cluster.held_partitions(), placed=self._cluster.placements()
            )

    def ListFingerprints(  # noqa: N802 - the name of the method on the wire
        self, request: operator_pb2.ListFingerprintsRequest, context: grpc.ServicerContext
    ) -> operator_pb2.ListFingerprintsResponse:
        """Answer ListFingerprints; operator.proto says how."""
        with abort_on_refusal(context):
            found = self._cluster.fingerprints(request.partition)
            if found is None:
                raise NotOwnerError(request.partition)
            return operator_pb2.ListFingerprintsResponse(
                fingerprints=[
                    operator_pb2.PartitionFingerprint(offset=offset, fingerprint=as_text(fingerprint))
                    for offset, fingerprint in found
                ]
            )

    def _stores(self, wanted: frozenset[int]) -> list[PartitionStore]:
        """Return the open stores of the partitions, ascending; raises Refusal for one that is not served."""
        serving = {store.partition: store for store in self._directory if isinstance(store, PartitionStore)}
        for number in sorted(wanted):
            if number not in serving:
                raise Refusal(
                    grpc.StatusCode.UNAVAILABLE,
                    Reason.NOT_OWNER,
                    f"this node does not serve partition {number}: ask the node that does, or retry when it serves",
                    partition=str(number),
                )
        return [store for number, store in serving.items() if not wanted or number in wanted]

    def _create(
        self, snapshots: SnapshotRepository, store: PartitionStore, context: grpc.ServicerContext
    ) -> operator_pb2.PartitionSnapshot:
        check_deadline(context)
        made = snapshots.create(store, topic=self._topic, progress=lambda _done, _total: check_active(context))
        message = _message(made)
        _log.info(
            "snapshot",
            partition=message.partition,
            snapshot=message.snapshot_id,
            total_bytes=message.total_bytes,
            uploaded_bytes=message.uploaded_bytes,
            seconds=round(message.seconds, 3),
        )
        return message


def _message(made: CreatedSnapshot) -> operator_pb2.PartitionSnapshot:
    manifest = made.manifest
    return operator_pb2.PartitionSnapshot(
        partition=manifest.partition,
        snapshot_id=manifest.id,
        applied_offset=manifest.state.applied_offset,
        events=manifest.state.events,
        fingerprint=manifest.state.fingerprint,
        files=len(manifest.files),
        total_bytes=manifest.total_bytes,
        uploaded_files=made.uploaded_files,
        uploaded_bytes=made.uploaded_bytes,
        seconds=made.seconds,
    )
