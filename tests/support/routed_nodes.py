"""Nodes that route calls to each other."""

import threading
from contextlib import ExitStack
from typing import Literal, cast

import grpc
import pytest
from google.rpc import error_details_pb2

from lifeline.core.metadata import FORWARDED
from lifeline.core.partitioner import partition_of
from lifeline.core.security import AUTHORIZATION, SecuritySettings
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.owners import Owners
from lifeline.rpc.routing import Routing
from lifeline.rpc.server import USER_SERVICES, NodeServer, Services
from lifeline.rpc.settings import NodeSettings
from lifeline.rpc.status import Refusal, abort
from lifeline.store.embeddings import EmbeddingTable
from lifeline.stream.placement import Placement
from lifeline.v1 import score_pb2, score_pb2_grpc, sequence_pb2, sequence_pb2_grpc
from tests.support.operators import Models, Operators
from tests.support.refusals import info_of

COUNT = 4
USERS = {partition_of(user.encode(), COUNT): user for user in map(str, range(40))}
"""A user of each partition."""


class Answers(sequence_pb2_grpc.SequenceServiceServicer, score_pb2_grpc.ScoreServiceServicer):
    """Answers with the partition of the test's choice, and remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool, float]] = []
        self.tokens: list[str] = []
        self.refusal: Refusal | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.gone = threading.Event()

    def GetSequence(  # noqa: N802
        self, request: sequence_pb2.GetSequenceRequest, context: grpc.ServicerContext
    ) -> sequence_pb2.GetSequenceResponse:
        self._answer(request.user_id, context)
        return sequence_pb2.GetSequenceResponse(as_of=sequence_pb2.AsOf(partition=1, lag_records=9))

    def Score(  # noqa: N802
        self, request: score_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> score_pb2.ScoreResponse:
        self._answer(request.user_id, context)
        return score_pb2.ScoreResponse(heads=["click"])

    def _answer(self, user_id: str, context: grpc.ServicerContext) -> None:
        context.add_callback(self.gone.set)
        marked = any(key == FORWARDED for key, _ in context.invocation_metadata())
        self.tokens += [str(value) for key, value in context.invocation_metadata() if key == AUTHORIZATION]
        self.asked.append((user_id, marked, context.time_remaining() or 0.0))
        assert self.hold.wait(60)
        if self.refusal:
            abort(context, self.refusal)


class Node:
    """One server with its routing; it has no store, and says that it has the partitions of the test's choice."""

    def __init__(
        self,
        stack: ExitStack,
        table: EmbeddingTable,
        misrouted: Literal["forward", "redirect"],
        security: SecuritySettings | None = None,
    ) -> None:
        self.directory = PartitionDirectory(lambda key: partition_of(key, COUNT), table)
        self.owners = Owners(COUNT)
        self.services = Answers()
        routing = Routing(self.directory, self.owners, USER_SERVICES, misrouted=misrouted, security=security)
        stack.callback(routing.close)
        settings = NodeSettings(grpc_address="127.0.0.1:0")
        services = Services(self.services, self.services, Operators(), Models())
        self.server = NodeServer(settings, services, routing, security=security)
        stack.callback(self.server.stop, 5)
        stack.callback(self.services.hold.set)
        self.owners.own_address = self.address

    @property
    def address(self) -> str:
        return self.server.address

    def call(self, user_id: str, timeout_s: float = 60.0) -> tuple[sequence_pb2.GetSequenceResponse, dict[str, str]]:
        with grpc.insecure_channel(self.address) as channel:
            stub = sequence_pb2_grpc.SequenceServiceStub(channel)
            request = sequence_pb2.GetSequenceRequest(user_id=user_id)
            reply, call = stub.GetSequence.with_call(request, timeout=timeout_s)
            return reply, {key: str(value) for key, value in call.initial_metadata()}

    def refused(self, user_id: str) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(user_id)
        return cast("grpc.Call", caught.value).code(), info_of(caught.value)


def owned_by(*owners: str) -> Placement:
    return Placement(dict(enumerate(owners)), {}, frozenset())
