"""One broker for all pytest-xdist workers: the controller starts it for the first worker that asks, and stops it."""

import json
import socket
import socketserver
import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

# The broker may take a minute to start on a busy machine.
_START_TIMEOUT_S = 120.0


class BrokerHost:
    """Tells the workers the broker's address over a loopback port. The broker lives until `close`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._answer: dict[str, str] | None = None
        host = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(json.dumps(host.answer()).encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self._server.server_address[1]
        return port

    def answer(self) -> dict[str, str]:
        """Return the broker's address, or why there is none; starts it on the first call."""
        # Imported here: kafka-python warns when it is imported, and the filter holds only once pytest is configured.
        from lifeline.dev.broker import cluster_or_broker  # noqa: PLC0415
        from lifeline.dev.kafka_jars import BrokerError  # noqa: PLC0415

        with self._lock:
            if self._answer is None:
                try:
                    self._answer = {"servers": self._stack.enter_context(cluster_or_broker(None))}
                except BrokerError as error:
                    self._answer = {"error": str(error)}
            return self._answer

    def close(self) -> None:
        """Stop the broker, if it runs, and answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            self._answer = {"error": "the test session is over"}
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shared_broker(port: int) -> str:
    """Return the bootstrap servers of the broker that the controller's `BrokerHost` runs; raises RuntimeError."""
    with socket.create_connection(("127.0.0.1", port), timeout=_START_TIMEOUT_S) as connection:
        answer: dict[str, Any] = json.loads(connection.makefile("rb").read())
    if "error" in answer:
        raise RuntimeError(f"the shared broker cannot be used: {answer['error']}")
    return str(answer["servers"])
