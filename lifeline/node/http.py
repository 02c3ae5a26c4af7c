"""The HTTP server of a node: /metrics for Prometheus, /livez and /readyz for supervisors and balancers.

Each connection has its own thread, which never waits for the event loop, so the server answers even when the loop
hangs. Untrusted clients may reach the port, so there are bounds for all that a client can use: the number of
connections (a new one closes the oldest), the time and size of a request's head, the time of a reply, and the number of
concurrent scrapes.
"""

import io
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from lifeline.core.errors import ServerError
from lifeline.core.printable import printable
from lifeline.node.health import Check, Health, all_ok

_TEXT = "text/plain; charset=utf-8"
_POLL_S = 0.1
_CONNECTIONS = 64
# The thread of a closed connection lives for a moment longer.
_THREADS = 2 * _CONNECTIONS
_SCRAPES = 4
_HEAD_S = 10.0
_HEAD_BYTES = 16 << 10
_REPLY_S = 10.0
_OVERLOADED_REPLY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_log = structlog.get_logger(__name__)


class HttpServer:
    """Serves until `stop`."""

    def __init__(self, address: str, health: Health, registry: CollectorRegistry | None) -> None:
        """Listen on `address`; without a `registry` there is no /metrics. Raises ServerError if it cannot listen."""
        host, _, port = address.rpartition(":")

        class Handler(_Handler):
            timeout = _REPLY_S

        Handler.health, Handler.registry = health, registry
        try:
            self._server = _Server((host.strip("[]"), int(port)), Handler)
        except (OSError, OverflowError) as error:
            raise ServerError(
                f"cannot listen on {address} ({error}): stop the process that uses the port, or set "
                "--http-address / LIFELINE_NODE__HTTP_ADDRESS to another one"
            ) from error
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="lifeline-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; do not wait for requests in progress."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(slots=True)
class _Connection:
    waiting_since: float | None
    """When it began to wait for a request; None while one is answered."""
    is_shut_down: bool = False
    """Whether this side has shut it down; its thread then closes it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Otherwise the library waits for every connection that a load balancer keeps open.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type["_Handler"]) -> None:
        # Oldest first: a dict keeps the order of insertion.
        self._open: dict[socket.socket, _Connection] = {}
        self._lock = threading.Lock()
        self.scrapes = threading.BoundedSemaphore(_SCRAPES)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the library's signature
        with self._lock:
            if len(self._open) >= _THREADS:
                is_full = True
            else:
                is_full = False
                self._open[request] = _Connection(time.monotonic())
                active = [connection for connection, state in self._open.items() if not state.is_shut_down]
                if len(active) > _CONNECTIONS:
                    self._end(active[0])
        if is_full:
            with suppress(OSError):
                request.send(_OVERLOADED_REPLY, socket.MSG_DONTWAIT)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End the connections that send no request in time; the library calls this periodically."""
        latest_start = time.monotonic() - _HEAD_S
        with self._lock:
            for connection, state in self._open.items():
                if not state.is_shut_down and state.waiting_since is not None and state.waiting_since < latest_start:
                    self._end(connection)

    def wait_for_request(self, request: Any, *, begins: bool) -> None:  # noqa: ANN401 - the library's signature
        """Record that a connection begins (`begins`) or ends to wait for a request."""
        with self._lock:
            if state := self._open.get(request):
                state.waiting_since = time.monotonic() if begins else None

    def _end(self, request: socket.socket) -> None:
        """Wake the connection's thread, which then closes it."""
        self._open[request].is_shut_down = True
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - the library's signature
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - the library's signature
        """Log the error that ended a connection: mostly the client, or `_end`, has closed it."""
        _log.debug("http", client=client_address[0], exc_info=True)

    def server_bind(self) -> None:
        # The library's method asks the name service for this machine's name, which may take long. Connections that this
        # side has closed keep the port for a minute, in which a node must be able to start again.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    health: Health
    registry: CollectorRegistry | None
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lifeline", ""
    server: _Server

    def handle_one_request(self) -> None:
        """Read the whole head of a request within its bounds, and let the library parse it."""
        stream, self.close_connection = self.rfile, True
        self.server.wait_for_request(self.connection, begins=True)
        try:
            head = _read_head(stream)
        finally:
            self.server.wait_for_request(self.connection, begins=False)
        if head is None:
            self.requestline = self.request_version = self.command = ""
            self.send_error(431)
            return
        try:
            self.rfile = io.BytesIO(head)
            super().handle_one_request()
        finally:
            self.rfile = stream

    def do_GET(self) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            # The body is not read, so the bytes that follow are no request.
            self.close_connection = True
        url = urlsplit(self.path)
        verbose = "verbose" in parse_qs(url.query, keep_blank_values=True)
        match url.path:
            case "/metrics" if self.registry is not None:
                self._send_metrics(self.registry)
            case "/metrics":
                self._send(404, "metrics are off: set node.metrics\n")
            case "/livez":
                self._send_checks("livez", self.health.live(), (), verbose=verbose)
            case "/readyz":
                self._send_checks("readyz", self.health.ready(), self.health.remarks(), verbose=verbose)
            case _:
                self._send(404, "the paths are /metrics, /livez and /readyz, the last two with ?verbose\n")

    def _send_metrics(self, registry: CollectorRegistry) -> None:
        if not self.server.scrapes.acquire(blocking=False):
            self._send(503, f"{_SCRAPES} scrapes are in progress: try again\n")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        try:
            text = encode(registry).decode()
        except Exception as error:  # noqa: BLE001 - logged
            # A failed scrape must not stop the node.
            _log.exception("a scrape failed")
            self._send(500, f"{type(error).__name__}: the node's log has the traceback\n")
            return
        finally:
            self.server.scrapes.release()
        self._send(200, text, content_type)

    def _send_checks(self, name: str, checks: Sequence[Check], remarks: Sequence[Check], *, verbose: bool) -> None:
        is_ok = all_ok(checks)
        status = 200 if is_ok else 503
        # A 503 always lists the failed checks.
        listed = [*checks, *remarks] if verbose else [check for check in checks if not check.ok]
        lines = [
            printable(f"[{'+' if check.ok else '-'}]{check.name} {check.detail or 'ok'}".rstrip()) for check in listed
        ]
        if not listed:
            self._send(status, "ok\n")
            return
        self._send(status, "\n".join([*lines, f"{name} check {'passed' if is_ok else 'failed'}"]) + "\n")

    def _send(self, status: int, text: str, content_type: str = _TEXT) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        _log.debug("http", what=format % args, client=self.client_address[0])


def _read_head(stream: io.BufferedIOBase) -> bytes | None:
    """Return request line and headers; nothing if the client closed the connection first, None if they are too long."""
    head = bytearray()
    while len(head) <= _HEAD_BYTES:
        line = stream.readline(_HEAD_BYTES + 1)
        head += line
        if not line:
            return b""
        if line in {b"\r\n", b"\n"} and len(head) > len(line):
            return bytes(head)
    return None
