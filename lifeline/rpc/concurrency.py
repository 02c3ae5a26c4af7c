"""The stage that bounds concurrent calls, and that reports unexpected errors as INTERNAL."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import grpc
import structlog

from lifeline.core.reasons import Reason
from lifeline.rpc.interceptor import RETRY_AFTER_S, Handler, around, code_of
from lifeline.rpc.memory_limit import MemoryLimit
from lifeline.rpc.status import Refusal, abort
from lifeline.rpc.waits import SLOT, Slot

# A stream holds a thread for as long as its caller likes.
REFLECTION_STREAMS = 4
"""The most reflection streams at once."""
_HEALTH_WATCHES = 64
STREAMS = REFLECTION_STREAMS + _HEALTH_WATCHES
"""The largest number of threads that streams hold."""

_log = structlog.get_logger(__name__)


class ConcurrencyLimit:
    """Refuses calls beyond the limits of the node: calls and streams at once, and memory."""

    def __init__(
        self, max_calls: int, memory: MemoryLimit, services: Sequence[str], user_services: Sequence[str]
    ) -> None:
        """Limit the calls of `services`; where memory is short, refuse those of `user_services`."""
        self._max_calls, self._memory = max_calls, memory
        self._paths, self._user_paths = (tuple(f"/{name}/" for name in names) for names in (services, user_services))
        self._free = threading.BoundedSemaphore(max_calls)
        self._reflection = _StreamLimit(REFLECTION_STREAMS, "reflection streams are open")
        self._watches = _StreamLimit(_HEALTH_WATCHES, "health watches are open")

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wrap the handlers of the services, and all streams."""
        if handler.stream_stream is not None:
            # Only reflection has bidirectional streams.
            return around(handler, self._reflection.slot)
        if handler.unary_stream is not None:
            # Only health has server streams.
            return around(handler, self._watches.slot)
        # Health must answer above all when the node is full.
        if not method.startswith(self._paths):
            return around(handler, lambda _: nullcontext())
        return around(handler, lambda context: self._call(method, context))

    @contextmanager
    def _call(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        slot = Slot(self._free, lambda: _overloaded(self._max_calls, "calls are under way"))
        try:
            slot.take()
        except Refusal as full:
            abort(context, full)
        # gRPC gives each call a contextvars context of its own.
        SLOT.set(slot)
        try:
            # Operators must get in even when memory is short.
            if method.startswith(self._user_paths) and (refusal := self._memory.refusal()) is not None:
                abort(context, refusal)
            yield
        except Exception as error:
            # An abort has set the status code before it raised.
            if code_of(context) is None:
                _log.exception("call failed", method=method)
                abort(context, _internal(error))
            raise
        finally:
            slot.give_back()


class _StreamLimit:
    """Bounds the open streams of one kind."""

    def __init__(self, max_streams: int, what: str) -> None:
        self._max_streams, self._what = max_streams, what
        self._free = threading.BoundedSemaphore(max_streams)

    @contextmanager
    def slot(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Hold one of the slots; ends the call where none is free."""
        if not self._free.acquire(blocking=False):
            abort(context, _overloaded(self._max_streams, self._what))
        try:
            yield
        finally:
            self._free.release()


def _overloaded(limit: int, what: str) -> Refusal:
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.OVERLOADED,
        f"{limit} {what}: retry with exponential back-off, or add nodes",
        limit=str(limit),
    ).with_retry_delay(RETRY_AFTER_S)


def _internal(error: Exception) -> Refusal:
    return Refusal(
        grpc.StatusCode.INTERNAL,
        Reason.INTERNAL,
        f"{type(error).__name__}: this is a bug in the node: report it, with the traceback from the node's log",
    )
