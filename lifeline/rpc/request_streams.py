"""The stage that ends calls with streamed requests (reflection) when the server stops.

Such a call waits for its caller's next request, in the gRPC library and without a timeout, so it would hold the
server's stop for the whole grace period. This stage lets other threads wait for the requests.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, cast

import grpc

from lifeline.rpc.interceptor import Handler

_Arrivals = SimpleQueue[Future[Any] | None]
"""The next request of a call; None when the server stops."""


class RequestStreams:
    """Ends the calls whose requests are streamed: `stop` does so with UNAVAILABLE."""

    def __init__(self, max_streams: int) -> None:
        """`max_streams` is the most such calls at once; `ConcurrencyLimit` refuses more."""
        # A thread for each call: none ever waits for another one's caller.
        self._pool = ThreadPoolExecutor(max_streams, thread_name_prefix="grpc-requests")
        self._open: set[_Arrivals] = set()
        self._is_stopping = False
        self._lock = threading.Lock()

    def stop(self) -> None:
        """End every such call now, and each new one at once. Idempotent."""
        with self._lock:
            self._is_stopping = True
            for arrivals in self._open:
                arrivals.put(None)
        self._pool.shutdown(wait=False)

    def wrap(self, method: str, handler: Handler) -> Handler:  # noqa: ARG002 - the kind of the method decides
        """Wrap the handlers of methods with streamed requests and replies."""
        if handler.stream_stream is None:
            return handler
        respond = cast("Any", handler.stream_stream)

        def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            arrivals: _Arrivals = SimpleQueue()
            with self._lock:
                if self._is_stopping:
                    arrivals.put(None)
                self._open.add(arrivals)
            try:
                yield from respond(self._requests(requests, arrivals, context), context)
            finally:
                with self._lock:
                    self._open.discard(arrivals)

        return grpc.stream_stream_rpc_method_handler(
            stream,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _requests(self, requests: Iterator[Any], arrivals: _Arrivals, context: grpc.ServicerContext) -> Iterator[Any]:
        """Yield the requests of a call until its caller has sent the last one; aborts it when the server stops."""
        while True:
            with self._lock:
                if not self._is_stopping:
                    # The thread waits on after an abort, until the library has ended the call.
                    self._pool.submit(next, requests, None).add_done_callback(arrivals.put)
            arrived = arrivals.get()
            if arrived is None:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the node stops: call again")
            request = arrived.result()
            if request is None:
                return
            yield request
