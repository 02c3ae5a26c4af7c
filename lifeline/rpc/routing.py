"""Routing: forwards a call to the node that owns the user's partition, or refuses it with the owner's address.

This stage decodes a request only to find its partition, and forwards the original bytes. A forwarded call has the
caller's deadline, and a metadata entry that marks it as forwarded. A node never forwards a marked call, so a call is
forwarded at most once. The owner's reply or error is passed on unchanged, with its details.

A member of the group can advertise any address. A forwarded call therefore carries its caller's token and no token of
the node: the owner checks the caller against its own configuration, and gains no rights that the caller does not have.
A token is sent only to an address that `CallSecurity.trusts`; otherwise the call is refused.
"""

import threading
from collections.abc import Callable
from typing import Any, Literal, cast

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from lifeline.client.connection import RECONNECT
from lifeline.core.errors import SecurityError
from lifeline.core.metadata import FORWARDED, OWNER, PARTITIONS
from lifeline.core.reasons import Reason
from lifeline.core.security import AUTHORIZATION, CallSecurity, SecuritySettings, stamp_of
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.interceptor import Handler, decode
from lifeline.rpc.owners import Owners
from lifeline.rpc.status import Refusal, abort
from lifeline.rpc.validation import time_left
from lifeline.store.errors import CatchingUpError

_MAX_MESSAGE = -1
# A call that does not have to wait at the owner usually ends within this time.
_NO_WAIT_S = 0.1
_POLL_S = 0.25
# The owner ends a wait itself, with the reason; this node must not time out first.
_OWNER_MARGIN_S = 5.0


class Routing:
    """The stage that routes the calls of `services` by the `user_id` of their requests."""

    def __init__(
        self,
        directory: PartitionDirectory,
        owners: Owners,
        services: tuple[str, ...],
        *,
        misrouted: Literal["forward", "redirect"],
        security: SecuritySettings | None = None,
    ) -> None:
        self._security = security or SecuritySettings()
        self._calls = CallSecurity.between_nodes(self._security)
        self._directory, self._owners, self._misrouted = directory, owners, misrouted
        self._methods = tuple(f"/{service}/" for service in services)
        self._channels: dict[tuple[str, bool], grpc.Channel] = {}
        self._lock = threading.Lock()
        self._has_ended_waits = threading.Event()

    def end_waits(self) -> None:
        """End the forwarded calls that wait for their offset: this node stops, and their callers can ask the owner."""
        self._has_ended_waits.set()

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap the handlers of the services."""
        if not method.startswith(self._methods):
            return handler
        behaviour = cast("Callable[[Any, grpc.ServicerContext], Message]", handler.unary_unary)
        parse = cast("Callable[[bytes], Any]", handler.request_deserializer)
        serialize = cast("Callable[[Message], bytes]", handler.response_serializer)

        def routed(raw: bytes, context: grpc.ServicerContext) -> bytes:
            request = decode(parse, raw, context)
            partition = self._directory.partition_of(request.user_id)
            if self._directory.has(partition):
                return serialize(behaviour(request, context))
            owner = self._owners.owner_of(partition)
            if owner == self._owners.own_address:
                abort(context, Refusal.of(CatchingUpError(partition)))
            if not owner or self._misrouted == "redirect" or self._is_forwarded(context):
                abort(context, not_owner(partition, owner, self._owners.partitions))
            may_wait = request.HasField("min_offset")
            return self._forward(owner, method, partition, raw, context, may_wait=may_wait)

        return grpc.unary_unary_rpc_method_handler(routed)

    @staticmethod
    def _is_forwarded(context: grpc.ServicerContext) -> bool:
        return any(key == FORWARDED for key, _ in context.invocation_metadata())

    def _forward(
        self, owner: str, method: str, partition: int, raw: bytes, context: grpc.ServicerContext, *, may_wait: bool
    ) -> bytes:
        token = [(key, value) for key, value in context.invocation_metadata() if key == AUTHORIZATION]
        try:
            channel = self._channel(owner, with_token=bool(token))
        except SecurityError as error:
            abort(context, _not_trusted(owner, partition, error))
        timeout_s = min(time_left(context), self._directory.waits.max_wait_s + _OWNER_MARGIN_S)
        call = channel.unary_unary(method, None, None).future(
            raw, timeout=timeout_s, metadata=((FORWARDED, "1"), *token)
        )
        # When the caller cancels or disconnects, cancel the forwarded call too.
        cancel = cast("Callable[[], None]", call.cancel)
        if not context.add_callback(cancel):
            cancel()
        try:
            reply = cast("bytes", self._result_of_wait(call, partition, owner, context) if may_wait else call.result())
        except grpc.FutureCancelledError:
            context.abort(grpc.StatusCode.CANCELLED, "the caller cancelled the call or disconnected")
        except grpc.RpcError as error:
            self._abort_with(cast("grpc.Call", error), owner, partition, context)
        context.send_initial_metadata(((OWNER, owner), (PARTITIONS, str(self._owners.partitions))))
        return reply

    def _result_of_wait(
        self, call: "grpc.CallFuture[Any]", partition: int, owner: str, context: grpc.ServicerContext
    ) -> Any:  # noqa: ANN401 - a message
        """Return the result of a call that may wait at its owner.

        A long wait takes a place in `Waits`, because it holds a thread here too.
        """
        try:
            return call.result(_NO_WAIT_S)
        except grpc.FutureTimeoutError:
            pass
        try:
            with self._directory.waits.place(context):
                while True:
                    try:
                        return call.result(_POLL_S)
                    except grpc.FutureTimeoutError:
                        if self._has_ended_waits.is_set():
                            raise not_owner(partition, owner, self._owners.partitions) from None
        except Refusal as refusal:
            call.cancel()  # type: ignore[no-untyped-call]
            abort(context, refusal)

    def _abort_with(self, error: grpc.Call, owner: str, partition: int, context: grpc.ServicerContext) -> None:
        status = rpc_status.from_call(error)
        if status is not None:
            context.abort_with_status(rpc_status.to_status(status))
        # The error comes from the gRPC library, here or at the owner, and not from a service of the owner.
        abort(
            context,
            Refusal(
                error.code(),
                Reason.OWNER_UNREACHABLE,
                f"partition {partition} is at {owner}, which does not answer ({error.details()}): retry; if that does "
                "not help, check that node and its node.advertised_address",
                partition=str(partition),
                owner=owner,
            ),
        )

    def _channel(self, address: str, *, with_token: bool) -> grpc.Channel:
        """Return a channel to an owner; raises SecurityError if a token must not be sent there."""
        with self._lock:
            if self._calls.stamp != stamp_of(self._security):
                # The certificates have changed. A call under way keeps its old channel open until the call ends.
                self._calls = CallSecurity.between_nodes(self._security)
                self._channels.clear()
            if with_token and not self._calls.trusts(address):
                raise SecurityError(
                    f"a caller's token must not be sent to {address}, which a member of the group advertises"
                )
            if (address, with_token) not in self._channels:
                current = self._owners.addresses()
                for key in [key for key in self._channels if key[0] not in current]:
                    self._channels.pop(key).close()
                options = (
                    *RECONNECT,
                    ("grpc.max_receive_message_length", _MAX_MESSAGE),
                    ("grpc.max_send_message_length", _MAX_MESSAGE),
                )
                self._channels[address, with_token] = self._calls.channel(address, options, with_token=with_token)
            return self._channels[address, with_token]

    def close(self) -> None:
        """Close the connections to other nodes; forwarded calls under way are cancelled."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()


def _not_trusted(owner: str, partition: int, error: SecurityError) -> Refusal:
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        Reason.OWNER_NOT_TRUSTED,
        f"partition {partition} is at {owner}, and the call was not forwarded ({error}): set security.ca on the nodes "
        "to the CA of their certificates, or call that node directly",
        partition=str(partition),
        owner=owner,
    )


def not_owner(partition: int, owner: str, partitions: int) -> Refusal:
    """Return the refusal of a call for another node's partition; it names the owner, if known."""
    where = f"ask its owner at {owner}" if owner else "retry when the group has assigned it"
    known = {"owner": owner} if owner else {}
    return Refusal(
        grpc.StatusCode.UNAVAILABLE,
        Reason.NOT_OWNER,
        f"this node does not hold partition {partition}: {where}",
        partition=str(partition),
        partitions=str(partitions),
        **known,
    )
