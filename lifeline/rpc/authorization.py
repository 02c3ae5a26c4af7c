"""Authorization: who may call which method, and how much each caller may have under way.

A call passes when its bearer token belongs to a configured caller, that caller may call the method, and the call stays
within the caller's limits. Without configured callers everybody may call the methods for users and nodes, and only
loopback those for operators. The health service needs no token, because supervisors and load balancers have none. Each
call of an operators' method is logged.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import grpc
import structlog

from lifeline.core.loopback import is_loopback_peer
from lifeline.core.methods import ALL_USER_METHODS, Audience, audience_of, name_of
from lifeline.core.reasons import Reason
from lifeline.core.security import AUTHORIZATION, Caller, token_hash
from lifeline.rpc.interceptor import RETRY_AFTER_S, Handler, SizeLimit, around, code_of
from lifeline.rpc.status import Refusal, abort
from lifeline.rpc.waits import CALLER

_REFUSAL_LOG_INTERVAL_S = 1.0
_NO_LOG = nullcontext()
_log = structlog.get_logger(__name__)


class Authorization:
    """The stage that refuses calls which `callers` does not permit; `open_services` are open to everybody."""

    def __init__(
        self, callers: Mapping[str, Caller], open_services: Sequence[str], *, peer_name: str | None = None
    ) -> None:
        """Let a caller whose verified certificate has `peer_name` call the nodes' methods without a token."""
        self._open = tuple(f"/{service}/" for service in open_services)
        self._peer_name = peer_name
        self._table = _CallerTable.of(callers, None)
        self._operator_log = _OperatorLog()

    def replace(self, callers: Mapping[str, Caller]) -> None:
        """Use another configuration for new calls; calls under way are not affected."""
        self._table = _CallerTable.of(callers, self._table)

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap the handlers of all services that are not open."""
        if method.startswith(self._open):
            return handler
        audience, is_stream = audience_of(method), handler.stream_stream is not None

        @contextmanager
        def authorized(context: grpc.ServicerContext) -> Iterator[SizeLimit | None]:
            table = self._table
            identity = table.authenticate(method, audience, context)
            refusal = self._refusal(identity, method, audience, context)
            with (
                self._operator_log.entry(method, identity, context, refused=refusal is not None)
                if audience is Audience.OPERATORS
                else _NO_LOG
            ):
                if refusal is not None:
                    abort(context, refusal)
                if not isinstance(identity, str):
                    yield None
                    return
                # gRPC gives each call a contextvars context of its own.
                CALLER.set(identity)
                call_limit, size_limit = table.limits_of(identity, is_stream=is_stream)
                with call_limit.slot(context):
                    yield size_limit

        return around(handler, authorized)

    def _refusal(
        self, identity: "str | Refusal | None", method: str, audience: Audience, context: grpc.ServicerContext
    ) -> Refusal | None:
        """Return why the call is refused, None if it may pass; the peer's certificate and address count too."""
        if isinstance(identity, Refusal):
            return None if audience is Audience.NODES and self._is_node(context) else identity
        if identity is None and audience is Audience.OPERATORS and not is_loopback_peer(context.peer()):
            return _not_loopback(method)
        return None

    def _is_node(self, context: grpc.ServicerContext) -> bool:
        """Return whether the caller's certificate, which TLS has verified, has the name of the nodes."""
        names = context.auth_context().get("x509_subject_alternative_name", ())
        return self._peer_name is not None and self._peer_name.encode() in names


class _CallerTable(NamedTuple):
    """The callers of one configuration, and their limits."""

    callers: Mapping[str, Caller]
    names: Mapping[str, str]
    """Token hash to caller. The time of a look-up may depend on the hash: that reveals nothing of a token."""
    calls: "Mapping[str, _CallLimit]"
    streams: "Mapping[str, _CallLimit]"

    @classmethod
    def of(cls, callers: Mapping[str, Caller], previous: "_CallerTable | None") -> "_CallerTable":
        """Build the table; a caller whose limit has not changed keeps its count of calls under way."""

        def limits(what: str, setting: str, old_limits: "Mapping[str, _CallLimit]") -> "dict[str, _CallLimit]":
            new_limits = {}
            for name, caller in callers.items():
                max_calls = getattr(caller, setting)
                old = old_limits.get(name)
                is_unchanged = old is not None and old.max_calls == max_calls
                new_limits[name] = old if old and is_unchanged else _CallLimit(name, what, setting, max_calls)
            return new_limits

        return cls(
            callers,
            {digest: name for name, caller in callers.items() for digest in caller.token_sha256},
            limits("calls", "max_concurrent", previous.calls if previous else {}),
            limits("streams", "max_streams", previous.streams if previous else {}),
        )

    def limits_of(self, name: str, *, is_stream: bool) -> "tuple[_CallLimit, SizeLimit | None]":
        """Return a caller's limits: of concurrent calls or streams, and of the size of a request."""
        call_limit = (self.streams if is_stream else self.calls)[name]
        max_kib = self.callers[name].max_message_kib
        if max_kib is None:
            return call_limit, None
        return call_limit, SizeLimit(max_kib << 10, lambda size: _too_large(name, size, max_kib))

    def authenticate(self, method: str, audience: Audience, context: grpc.ServicerContext) -> "str | Refusal | None":
        """Return the caller's name, or why the call is refused; None if no callers are configured."""
        if not self.callers:
            return None
        values = [value for key, value in context.invocation_metadata() if key == AUTHORIZATION]
        if not values:
            return Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.TOKEN_MISSING,
                f"the call has no token: send {AUTHORIZATION}: Bearer TOKEN (a client's security.token)",
            )
        scheme, _, token = str(values[0]).partition(" ")
        name = self.names.get(token_hash(token.strip())) if scheme.lower() == "bearer" else None
        if name is None:
            return Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.TOKEN_UNKNOWN,
                "the call's token belongs to no caller: use another token, or add its hash to security.callers",
            )
        allowed = self.callers[name].methods
        short = name_of(method)
        if short not in allowed and not (audience is Audience.USERS and ALL_USER_METHODS in allowed):
            return Refusal(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.METHOD_NOT_ALLOWED,
                f"caller {name} may call {', '.join(allowed)}, but not {short}: add it to "
                f"security.callers.{name}.methods",
                caller=name,
            )
        return name


class _OperatorLog:
    """Logs calls of operators' methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_refusal_at = -_REFUSAL_LOG_INTERVAL_S
        self._unlogged = 0

    @contextmanager
    def entry(
        self, method: str, identity: "str | Refusal | None", context: grpc.ServicerContext, *, refused: bool
    ) -> Iterator[None]:
        """Log a call when it has ended: the caller, its address, and the status."""
        outcome = "OK"
        try:
            yield
        except BaseException:
            outcome = "UNKNOWN"
            raise
        finally:
            code = code_of(context)
            unlogged = self._refusals_to_report() if refused else 0
            if unlogged is not None:
                _log.info(
                    "operator call",
                    method=name_of(method),
                    caller=identity.metadata.get("caller") if isinstance(identity, Refusal) else identity,
                    peer=context.peer(),
                    outcome=outcome if code is None else code.name,
                    **({"unlogged": unlogged} if unlogged else {}),
                )

    def _refusals_to_report(self) -> int | None:
        """Return how many refused calls were not logged since the last line; None if it is too early for a line."""
        with self._lock:
            now = time.monotonic()
            if now - self._last_refusal_at < _REFUSAL_LOG_INTERVAL_S:
                # Refused calls must not fill the disk with log lines.
                self._unlogged += 1
                return None
            self._last_refusal_at = now
            unlogged, self._unlogged = self._unlogged, 0
            return unlogged


class _CallLimit:
    """Bounds one caller's concurrent calls or streams."""

    def __init__(self, caller: str, what: str, setting: str, max_calls: int | None) -> None:
        self._caller, self._what, self._setting, self.max_calls = caller, what, setting, max_calls
        self._under_way = 0
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count the call while it is under way; aborts it if that exceeds the limit."""
        with self._lock:
            is_full = self.max_calls is not None and self._under_way >= self.max_calls
            self._under_way += not is_full
        if is_full:
            refusal = Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.OVERLOADED,
                f"{self.max_calls} {self._what} of {self._caller} are under way: retry with exponential back-off, or "
                f"raise security.callers.{self._caller}.{self._setting}",
                limit=str(self.max_calls),
                caller=self._caller,
            ).with_retry_delay(RETRY_AFTER_S)
            abort(context, refusal)
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1


def _not_loopback(method: str) -> Refusal:
    short = name_of(method)
    return Refusal(
        grpc.StatusCode.PERMISSION_DENIED,
        Reason.METHOD_NOT_ALLOWED,
        f"{short} is for operators, and without security.callers only the node's own machine may call it: call it "
        f"there, or name a caller with methods = [{short!r}] in security.callers",
    )


def _too_large(caller: str, size: int, max_kib: int) -> Refusal:
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.REQUEST_TOO_LARGE,
        f"the request has {size:,} bytes, and {caller} may send {max_kib << 10:,}: send smaller requests, or raise "
        f"security.callers.{caller}.max_message_kib",
        bytes=str(size),
        limit=str(max_kib << 10),
        caller=caller,
    )
