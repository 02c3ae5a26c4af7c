"""Routing: a call for a user whom another node has is forwarded to that node, or answered with its address.

It stands between the server and its services, and passes bytes on as they came: of a request it reads the user id
alone. A forwarded call carries the caller's deadline and a mark, and a node answers a marked call itself whatever it
holds: so no call travels twice. What the owner answers, refusals and their details too, is the answer.

A member of the group advertises whatever address it likes. So a forwarded call carries the token of its own caller and
none of the node: the owner judges the caller by its own list, and may do no more with the token than the caller could.
It goes only where `CallSecurity.trusts` says so, and elsewhere the call is refused.
"""

import threading
from collections.abc import Callable
from typing import Any, Literal, cast

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

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
# What the owner answers without a wait takes no longer, as a rule.
_AT_ONCE_S = 0.1
# The owner ends a wait itself, and says why.
_OWNER_MARGIN_S = 5.0


class Routing:
    """Routes the calls of `services` by the `user_id` of their requests."""

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

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap the handlers of the services."""
        if not method.startswith(self._methods):
            return handler
        behaviour = cast("Callable[[Any, grpc.ServicerContext], Message]", handler.unary_unary)
        parse = cast("Callable[[bytes], Any]", handler.request_deserializer)
        serialise = cast("Callable[[Message], bytes]", handler.response_serializer)

        def routed(raw: bytes, context: grpc.ServicerContext) -> bytes:
            request = decode(parse, raw, context)
            partition = self._directory.partition_of(request.user_id)
            if self._directory.has(partition):
                return serialise(behaviour(request, context))
            owner = self._owners.owner_of(partition)
            if owner == self._owners.own_address:
                abort(context, Refusal.of(CatchingUpError(partition)))
            if not owner or self._misrouted == "redirect" or self._has_travelled(context):
                abort(context, not_owner(partition, owner, self._owners.partitions))
            waits = request.HasField("min_offset")
            return self._forward(owner, method, partition, raw, context, waits=waits)

        return grpc.unary_unary_rpc_method_handler(routed)

    @staticmethod
    def _has_travelled(context: grpc.ServicerContext) -> bool:
        return any(key == FORWARDED for key, _ in context.invocation_metadata())

    def _forward(
        self, owner: str, method: str, partition: int, raw: bytes, context: grpc.ServicerContext, *, waits: bool
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
        # A caller that goes takes its call at the owner with it.
        cancel = cast("Callable[[], None]", call.cancel)
        if not context.add_callback(cancel):
            cancel()
        try:
            reply = cast("bytes", self._result_of_wait(call, context) if waits else call.result())
        except grpc.FutureCancelledError:
            context.abort(grpc.StatusCode.CANCELLED, "the caller has gone: nothing to do")
        except grpc.RpcError as error:
            self._pass_on(cast("grpc.Call", error), owner, partition, context)
        context.send_initial_metadata(((OWNER, owner), (PARTITIONS, str(self._owners.partitions))))
        return reply

    def _result_of_wait(self, call: "grpc.CallFuture[Any]", context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        """Return what a call gives that may wait at its owner: it holds a thread here meanwhile."""
        try:
            return call.result(_AT_ONCE_S)
        except grpc.FutureTimeoutError:
            pass
        try:
            with self._directory.waits.place(context):
                return call.result()
        except Refusal as refusal:
            call.cancel()  # type: ignore[no-untyped-call]
            abort(context, refusal)

    def _pass_on(self, error: grpc.Call, owner: str, partition: int, context: grpc.ServicerContext) -> None:
        status = rpc_status.from_call(error)
        if status is not None:
            context.abort_with_status(rpc_status.to_status(status))
        # No service of the owner has answered: its gRPC library, or nobody.
        abort(
            context,
            Refusal(
                error.code(),
                Reason.OWNER_UNREACHABLE,
                f"partition {partition} is at {owner}, which does not answer ({error.details()}): retry, and when "
                "it stays so see to that node or to its node.advertised_address",
                partition=str(partition),
                owner=owner,
            ),
        )

    def _channel(self, address: str, *, with_token: bool) -> grpc.Channel:
        """Return a channel to an owner. Raises SecurityError where a token must not go there."""
        with self._lock:
            if self._calls.stamp != stamp_of(self._security):
                # Calls that are under way on the channels of the old files end before these are gone.
                self._calls = CallSecurity.between_nodes(self._security)
                self._channels.clear()
            if with_token and not self._calls.trusts(address):
                raise SecurityError(f"a caller's token may not go to {address}, which a member of the group advertises")
            if (address, with_token) not in self._channels:
                known = self._owners.addresses()
                for gone in [each for each in self._channels if each[0] not in known]:
                    self._channels.pop(gone).close()
                options = (
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
        "to the CA of their certificates, or call that node itself",
        partition=str(partition),
        owner=owner,
    )


def not_owner(partition: int, owner: str, partitions: int) -> Refusal:
    """Return the refusal that tells a caller where to go."""
    where = f"ask its owner at {owner}" if owner else "retry when the assignment has settled"
    known = {"owner": owner} if owner else {}
    return Refusal(
        grpc.StatusCode.UNAVAILABLE,
        Reason.NOT_OWNER,
        f"this node does not hold partition {partition}: {where}",
        partition=str(partition),
        partitions=str(partitions),
        **known,
    )
