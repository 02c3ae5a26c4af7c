"""A node's server with the real services over one small partition, without Kafka."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lifeline.core.security import SecuritySettings
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.model_service import ModelService
from lifeline.rpc.operator_service import OperatorService
from lifeline.rpc.owners import Owners
from lifeline.rpc.routing import Routing
from lifeline.rpc.score_service import ModelHolder, ScoreService
from lifeline.rpc.sequence_service import SequenceService
from lifeline.rpc.server import USER_SERVICES, NodeServer, Services
from lifeline.rpc.settings import NodeSettings
from lifeline.rpc.waits import Waits
from lifeline.scorer import weights
from lifeline.scorer.history_cache import HistoryCache
from lifeline.scorer.model import TransAct
from lifeline.scorer.scorer import Scorer
from lifeline.scorer.settings import ScorerSettings
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.repository import SnapshotRepository
from lifeline.stream.placement import Placement
from lifeline.v1 import group_pb2, operator_pb2
from tests.support.factories import Event, batch_of, open_store, tiny
from tests.support.scorer_factories import SMALL, VOCABULARY, loaded

ADDRESS = "127.0.0.1:0"
ELSEWHERE = "elsewhere"
"""A user of partition 8, which the node does not hold."""


class Cluster:
    """A group of this node alone."""

    address = "here:1"

    def held_partitions(self) -> list[operator_pb2.HeldPartition]:
        return [operator_pb2.HeldPartition(partition=3, role=operator_pb2.ROLE_OWNER, state="serving")]

    def placements(self) -> list[group_pb2.PlacedPartition]:
        return [group_pb2.PlacedPartition(partition=3, owner=self.address)]

    def fingerprints(self, partition: int) -> list[tuple[int, int]] | None:
        return [(1, 0xAB)] if partition == 3 else None


@dataclass
class Node:
    """A server, what it holds, and whom it would ask."""

    server: NodeServer
    store: PartitionStore
    directory: PartitionDirectory
    owners: Owners
    routing: Routing

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def waits(self) -> Waits:
        return self.directory.waits

    def send_elsewhere(self, owner: str) -> None:
        """Have the node ask `owner` for the users of partition 8."""
        self.owners.update(Placement({8: owner}, {}, frozenset()))


@contextmanager
def node_at(
    path: Path, settings: NodeSettings | None = None, security: SecuritySettings | None = None
) -> Iterator[Node]:
    """Serve partition 3 with offset 0 applied: three events of the user "ann"."""
    settings = settings or NodeSettings(grpc_address=ADDRESS)
    scoring = ScorerSettings(models_dir=path / "models")
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        table = EmbeddingTable.open(path / "items")
        stack.callback(table.close)
        table.apply(np.array([1], np.uint64), np.ones((1, 32), np.int8), np.ones(1, np.uint32), partition=0, offset=0)
        store = open_store(path / "p3", tiny())
        stack.callback(store.close)
        store.apply(batch_of([Event(b"ann", 10 * at, at, 257) for at in range(1, 4)]), offset=0)
        directory = PartitionDirectory(
            lambda key: 8 if key == ELSEWHERE.encode() else 3,
            table,
            Waits(settings.wait_places, settings.max_wait_ms / 1000),
        )
        directory.add(store)
        torch.manual_seed(0)
        models = ModelHolder(scoring, Scorer(loaded(TransAct(SMALL)), VOCABULARY, table))

        def load(version: str | None) -> Scorer:
            versioned = scoring.model_copy(update={"version": version})
            return Scorer(weights.load(versioned, VOCABULARY), VOCABULARY, table)

        services = Services(
            SequenceService(directory, max_reply_bytes=1 << 20),
            ScoreService(directory, models, VOCABULARY, scoring, HistoryCache(1 << 20), max_reply_bytes=1 << 20),
            OperatorService(directory, SnapshotRepository(f"file://{path}/snapshots"), Cluster(), topic="actions"),
            ModelService(models, load, list),
        )
        owners = Owners(9)
        routing = Routing(directory, owners, USER_SERVICES, misrouted="forward", security=security)
        stack.callback(routing.close)
        server = NodeServer(settings, services, routing, security=security)
        stack.callback(server.stop, 5)
        owners.own_address = server.address
        yield Node(server, store, directory, owners, routing)
