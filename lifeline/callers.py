"""Callers: a call goes on when its token is known, and its caller may make it: the method, its size, and one more.

Health answers everybody: whoever looks after nodes has no token.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc

from lifeline.interceptor import RETRY_AFTER_S, Handler, Interceptor, SizeLimit, around
from lifeline.security import AUTHORIZATION, Caller, hash_of
from store.status import Reason, Refusal, abort


class Callers(Interceptor):
    """Refuses the calls of everybody who is not among `callers`, but to `open_services`."""

    def __init__(self, callers: Mapping[str, Caller], open_services: Sequence[str]) -> None:
        self._callers = callers
        # Found by the hash: how long that takes may tell what it likes, for it tells nothing of a token.
        self._names = {caller.token_sha256: name for name, caller in callers.items()}
        self._open = tuple(f"/{service}/" for service in open_services)
        self._calls = {
            name: _Room(name, "calls", "max_concurrent", one.max_concurrent) for name, one in callers.items()
        }
        self._streams = {name: _Room(name, "streams", "max_streams", one.max_streams) for name, one in callers.items()}

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
        if isinstance(found, Refusal):
            return around(handler, lambda context: abort(context, found))
        room = (self._streams if handler.stream_stream is not None else self._calls)[found]
        most_kib = self._callers[found].max_message_kib
        limit = None if most_kib is None else SizeLimit(most_kib << 10, lambda size: _too_large(found, size, most_kib))
        return around(handler, room.taken, limit)

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


class _Room:
    """What one caller has under way of one kind, and the most that it may have."""

    def __init__(self, caller: str, what: str, setting: str, most: int | None) -> None:
        self._caller, self._what, self._setting, self._most = caller, what, setting, most
        self._under_way = 0
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count one more while it is under way; ends it where that is one too many."""
        with self._lock:
            full = self._most is not None and self._under_way >= self._most
            self._under_way += not full
        if full:
            refusal = Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.OVERLOADED,
                f"{self._most} {self._what} of {self._caller} are under way: retry with exponential back-off, or raise "
                f"security.callers.{self._caller}.{self._setting}",
                limit=str(self._most),
                caller=self._caller,
            ).after(RETRY_AFTER_S)
            abort(context, refusal)
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1


def _too_large(caller: str, size: int, most_kib: int) -> Refusal:
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.REQUEST_TOO_LARGE,
        f"the request has {size:,} bytes and {caller} may send {most_kib << 10:,}: ask for less at once, or raise "
        f"security.callers.{caller}.max_message_kib",
        bytes=str(size),
        limit=str(most_kib << 10),
        caller=caller,
    )
