"""A gRPC channel to one node, with the stubs of its services."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from lifeline.client.errors import translate
from lifeline.core.security import CallSecurity
from lifeline.v1.model_pb2_grpc import ModelServiceStub
from lifeline.v1.operator_pb2_grpc import OperatorServiceStub
from lifeline.v1.score_pb2_grpc import ScoreServiceStub
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub

MAX_REPLY_BYTES = 256 << 20

RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""Options of channels to nodes: gRPC's default pause between connection attempts grows to two minutes, which a node
that restarts is not away."""
_CHANNEL_OPTIONS = (("grpc.max_receive_message_length", MAX_REPLY_BYTES), *RECONNECT)

Reply = TypeVar("Reply")


class NodeConnection:
    """A channel to one address, and its stubs. Safe in threads."""

    def __init__(self, address: str, security: CallSecurity) -> None:
        self.address = address
        self._security = security
        self._secure = security.credentials is not None
        self._channel = security.channel(address, _CHANNEL_OPTIONS)
        self.sequences = SequenceServiceStub(self._channel)
        self.scores = ScoreServiceStub(self._channel)
        self.operators = OperatorServiceStub(self._channel)
        self.models = ModelServiceStub(self._channel)
        self.is_connected = False
        """Whether the channel is connected. It stays False until `watch` is called."""
        self._is_watched = False

    def watch(self) -> None:
        """Connect in the background, and keep `is_connected` up to date."""
        if not self._is_watched:
            self._is_watched = True
            self._channel.subscribe(self._on_connectivity, try_to_connect=True)

    def _on_connectivity(self, state: grpc.ChannelConnectivity) -> None:
        self.is_connected = state is grpc.ChannelConnectivity.READY

    def call(
        self,
        method: "Callable[[NodeConnection], grpc.UnaryUnaryMultiCallable[Any, Reply]]",
        request: Message,
        timeout_s: float,
        attempts: int = 1,
    ) -> tuple[Reply, Mapping[str, str]]:
        """Make one call; return the reply and the node's initial metadata. Raises LifelineError."""
        try:
            reply, call = method(self).with_call(request, timeout=timeout_s, metadata=self._security.metadata)
        except grpc.RpcError as error:
            raise translate(cast("grpc.Call", error), self.address, attempts, secure=self._secure) from error
        return reply, {key: str(value) for key, value in call.initial_metadata()}

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._channel.close()
