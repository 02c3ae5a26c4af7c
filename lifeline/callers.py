"""Callers: a call goes on when its token is known, its method is one that its caller may call, and there is room.

Health answers everybody: whoever looks after nodes has no token.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc

from lifeline.interceptor import RETRY_AFTER_S, Handler, Interceptor, around
from lifeline.security import AUTHORIZATION, Caller, hash_of
from store.status import Reason, Refusal, abort


class Callers(Interceptor):
    """Refuses the calls of everybody who is not among `callers`, but to `open_services`."""

    def __init__(self, callers: Mapping[str, Caller], open_services: Sequence[str]) -> None:
        self._callers = callers
        # Found by the hash: how long that takes may tell what it likes, for it tells nothing of a token.
        self._names = {caller.token_sha256: name for name, caller in callers.items()}
        self._open = tuple(f"/{service}/" for service in open_services)
        self._under_way = dict.fromkeys(callers, 0)
        self._lock = threading.Lock()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handlers of all services that are not open."""
        handler = continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(self._open):
            return handler
        found = self._check(method, handler_call_details.invocation_metadata or ())
        return around(handler, lambda context: self._counted(found, context))

    def _check(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> "str | Refusal":
        """Return the caller's name, or why the call is refused."""
        shown = [value for key, value in metadata if key == AUTHORIZATION]
        if not shown:
            return Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.TOKEN_MISSING,
                f"the call has no token: send {AUTHORIZATION}: Bearer TOKEN (a client's security.token)",
            )
        scheme, _, token = str(shown[0]).partition(" ")
        name = self._names.get(hash_of(token.strip())) if scheme.lower() == "bearer" else None
        if name is None:
            return Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.TOKEN_UNKNOWN,
                "the call's token is nobody's: ask for another one, or add its hash to security.callers",
            )
        allowed = self._callers[name].methods
        short = method.rpartition("/")[2]
        if "*" not in allowed and short not in allowed:
            return Refusal(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.METHOD_NOT_ALLOWED,
                f"caller {name} may call {', '.join(allowed)}, and not {short}: add it to "
                f"security.callers.{name}.methods",
                caller=name,
            )
        return name

    @contextmanager
    def _counted(self, found: "str | Refusal", context: grpc.ServicerContext) -> Iterator[None]:
        """Count a call while it is under way; ends it where it is refused, or its caller has as many as it may."""
        if isinstance(found, Refusal):
            abort(context, found)
        most = self._callers[found].max_concurrent
        with self._lock:
            full = most is not None and self._under_way[found] >= most
            self._under_way[found] += not full
        if full:
            refusal = Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.OVERLOADED,
                f"{most} calls of {found} are under way: retry with exponential back-off, or raise "
                f"security.callers.{found}.max_concurrent",
                limit=str(most),
                caller=found,
            ).after(RETRY_AFTER_S)
            abort(context, refusal)
        try:
            yield
        finally:
            with self._lock:
                self._under_way[found] -= 1
