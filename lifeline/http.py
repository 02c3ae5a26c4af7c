"""The HTTP server of a node: /metrics for Prometheus, /livez and /readyz for supervisors and balancers.

Each request has a thread of its own, and none of them waits for the event loop: it answers when that hangs, too.
"""

import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from lifeline.errors import ServerError
from lifeline.health import Check, Health, holds

_TEXT = "text/plain; charset=utf-8"
_POLL_S = 0.1
_SLOW_CLIENT_S = 10.0

_log = structlog.get_logger(__name__)


class HttpServer:
    """Serves until `stop`."""

    def __init__(self, address: str, health: Health, registry: CollectorRegistry | None) -> None:
        """Listen; without a `registry` there is no /metrics. Raises ServerError when the address cannot be had."""
        host, _, port = address.rpartition(":")

        class Handler(_Handler):
            timeout = _SLOW_CLIENT_S

        Handler.health, Handler.registry = health, registry
        try:
            self._server = _Server((host.strip("[]"), int(port)), Handler)
        except (OSError, OverflowError) as error:
            raise ServerError(
                f"{address} cannot be listened on ({error}): stop what has the port, or set "
                "--http-address / LIFELINE_NODE__HTTP_ADDRESS to another one"
            ) from error
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="lifeline-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; requests under way are not waited for."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The library would wait for every connection that a balancer keeps open.
    block_on_close = False

    def server_bind(self) -> None:
        # The library's own asks the name service for this machine's name, which may take long.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    health: Health
    registry: CollectorRegistry | None
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lifeline", ""

    def do_GET(self) -> None:
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
                self._send(404, "there are /metrics, /livez and /readyz, the latter two with ?verbose\n")

    def _send_metrics(self, registry: CollectorRegistry) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        try:
            text = encode(registry).decode()
        except Exception as error:  # noqa: BLE001 - and logged
            # The node goes on: a scrape is not worth its end.
            _log.exception("a scrape failed")
            self._send(500, f"{type(error).__name__}: the node's log has the traceback\n")
            return
        self._send(200, text, content_type)

    def _send_checks(self, name: str, checks: Sequence[Check], remarks: Sequence[Check], *, verbose: bool) -> None:
        good = holds(checks)
        status = 200 if good else 503
        # What fails is said in any case: whoever looks at a 503 wants to know why.
        shown = [*checks, *remarks] if verbose else [check for check in checks if not check.ok]
        lines = [f"[{'+' if one.ok else '-'}]{one.name} {one.detail or 'ok'}".rstrip() for one in shown]
        if not shown:
            self._send(status, "ok\n")
            return
        self._send(status, "\n".join([*lines, f"{name} check {'passed' if good else 'failed'}"]) + "\n")

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
