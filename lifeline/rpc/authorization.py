"""Callers: a call goes on when its token is known, and its caller may make it: the method, its size, and one more.

Health answers everybody: whoever looks after nodes has no token. Where no callers are named everybody may call the
methods of users and nodes, and loopback those of operators. Every call of an operators' method is a log line.
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

_REFUSED_LINES_S = 1.0
_NOTHING = nullcontext()
_log = structlog.get_logger(__name__)


class Authorization:
    """Refuses the calls of everybody who is not among `callers`, but to `open_services`."""

    def __init__(
        self, callers: Mapping[str, Caller], open_services: Sequence[str], *, peer_name: str | None = None
    ) -> None:
        """Let a certificate with `peer_name` call the methods of nodes without a token."""
        self._open = tuple(f"/{service}/" for service in open_services)
        self._peer_name = peer_name
        self._register = _Register.of(callers, None)
        self._operators = _OperatorLog()

    def replace(self, callers: Mapping[str, Caller]) -> None:
        """Let these call from now on, and nobody else. Calls under way end as they began."""
        self._register = _Register.of(callers, self._register)

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap the handlers of all services that are not open."""
        if method.startswith(self._open):
            return handler
        audience, streams = audience_of(method), handler.stream_stream is not None

        @contextmanager
        def admitted(context: grpc.ServicerContext) -> Iterator[SizeLimit | None]:
            register = self._register
            found = register.check(method, audience, context)
            refusal = self._refusal(found, method, audience, context)
            with (
                self._operators.noted(method, found, context, refused=refusal is not None)
                if audience is Audience.OPERATORS
                else _NOTHING
            ):
                if refusal is not None:
                    abort(context, refusal)
                if not isinstance(found, str):
                    yield None
                    return
                # Each call has a context of its own.
                CALLER.set(found)
                room, limit = register.limits_of(found, streams=streams)
                with room.taken(context):
                    yield limit

        return around(handler, admitted)

    def _refusal(
        self, found: "str | Refusal | None", method: str, audience: Audience, context: grpc.ServicerContext
    ) -> Refusal | None:
        """Return why a call does not go on, now that it is known where it comes from."""
        if isinstance(found, Refusal):
            return None if audience is Audience.NODES and self._is_node(context) else found
        if found is None and audience is Audience.OPERATORS and not is_loopback_peer(context.peer()):
            return _not_from_elsewhere(method)
        return None

    def _is_node(self, context: grpc.ServicerContext) -> bool:
        """Say whether the caller has shown the certificate of a node, which the server has verified."""
        names = context.auth_context().get("x509_subject_alternative_name", ())
        return self._peer_name is not None and self._peer_name.encode() in names


class _Register(NamedTuple):
    """The callers of one configuration."""

    callers: Mapping[str, Caller]
    names: Mapping[str, str]
    """By the hash: how long it takes to find one may tell what it likes, for it tells nothing of a token."""
    calls: "Mapping[str, _Room]"
    streams: "Mapping[str, _Room]"

    @classmethod
    def of(cls, callers: Mapping[str, Caller], before: "_Register | None") -> "_Register":
        """Register them; who keeps its limits keeps the count of what it has under way."""

        def rooms(what: str, setting: str, counted: "Mapping[str, _Room]") -> "dict[str, _Room]":
            limits = {}
            for name, caller in callers.items():
                most = getattr(caller, setting)
                old = counted.get(name)
                limits[name] = old if old is not None and old.most == most else _Room(name, what, setting, most)
            return limits

        return cls(
            callers,
            {each: name for name, caller in callers.items() for each in caller.token_sha256},
            rooms("calls", "max_concurrent", before.calls if before else {}),
            rooms("streams", "max_streams", before.streams if before else {}),
        )

    def limits_of(self, name: str, *, streams: bool) -> "tuple[_Room, SizeLimit | None]":
        """Return the limits of a caller."""
        room = (self.streams if streams else self.calls)[name]
        most_kib = self.callers[name].max_message_kib
        if most_kib is None:
            return room, None
        return room, SizeLimit(most_kib << 10, lambda size: _too_large(name, size, most_kib))

    def check(self, method: str, audience: Audience, context: grpc.ServicerContext) -> "str | Refusal | None":
        """Return the caller's name, or why the call is refused; None where there are no callers."""
        if not self.callers:
            return None
        shown = [value for key, value in context.invocation_metadata() if key == AUTHORIZATION]
        if not shown:
            return Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.TOKEN_MISSING,
                f"the call has no token: send {AUTHORIZATION}: Bearer TOKEN (a client's security.token)",
            )
        scheme, _, token = str(shown[0]).partition(" ")
        name = self.names.get(token_hash(token.strip())) if scheme.lower() == "bearer" else None
        if name is None:
            return Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.TOKEN_UNKNOWN,
                "the call's token is nobody's: ask for another one, or add its hash to security.callers",
            )
        allowed = self.callers[name].methods
        short = name_of(method)
        if short not in allowed and not (audience is Audience.USERS and ALL_USER_METHODS in allowed):
            return Refusal(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.METHOD_NOT_ALLOWED,
                f"caller {name} may call {', '.join(allowed)}, and not {short}: add it to "
                f"security.callers.{name}.methods",
                caller=name,
            )
        return name


class _OperatorLog:
    """The log lines of calls of operators' methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused_at = -_REFUSED_LINES_S
        self._unlogged = 0

    @contextmanager
    def noted(
        self, method: str, found: "str | Refusal | None", context: grpc.ServicerContext, *, refused: bool
    ) -> Iterator[None]:
        """Log a call when it has ended: who made it, from where, and its status."""
        outcome = "OK"
        try:
            yield
        except BaseException:
            outcome = "UNKNOWN"
            raise
        finally:
            code = code_of(context)
            unlogged = self._turn() if refused else 0
            if unlogged is not None:
                _log.info(
                    "operator call",
                    method=name_of(method),
                    caller=found.metadata.get("caller") if isinstance(found, Refusal) else found,
                    peer=context.peer(),
                    outcome=outcome if code is None else code.name,
                    **({"unlogged": unlogged} if unlogged else {}),
                )

    def _turn(self) -> int | None:
        """Return how many refused calls had no line since the last one; None while it is too soon for a line."""
        with self._lock:
            now = time.monotonic()
            if now - self._refused_at < _REFUSED_LINES_S:
                # Whoever is refused must not fill the disk with lines.
                self._unlogged += 1
                return None
            self._refused_at = now
            unlogged, self._unlogged = self._unlogged, 0
            return unlogged


class _Room:
    """What one caller has under way of one kind, and the most that it may have."""

    def __init__(self, caller: str, what: str, setting: str, most: int | None) -> None:
        self._caller, self._what, self._setting, self.most = caller, what, setting, most
        self._under_way = 0
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count one more while it is under way; ends it where that is one too many."""
        with self._lock:
            full = self.most is not None and self._under_way >= self.most
            self._under_way += not full
        if full:
            refusal = Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.OVERLOADED,
                f"{self.most} {self._what} of {self._caller} are under way: retry with exponential back-off, or raise "
                f"security.callers.{self._caller}.{self._setting}",
                limit=str(self.most),
                caller=self._caller,
            ).with_retry_delay(RETRY_AFTER_S)
            abort(context, refusal)
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1


def _not_from_elsewhere(method: str) -> Refusal:
    short = name_of(method)
    return Refusal(
        grpc.StatusCode.PERMISSION_DENIED,
        Reason.METHOD_NOT_ALLOWED,
        f"{short} is for operators, and without security.callers only the node's own machine may call it: call it "
        f"there, or name a caller with methods = [{short!r}] in security.callers",
    )


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
