"""A proxy before a real broker that gives clients another address of it, as a wrong advertised listener does."""

import socket
import socketserver
import struct
import threading
from types import TracebackType
from typing import Self

_FRAME = struct.Struct(">i")


class RewritingProxy:
    """Passes requests on, and replaces a host in the responses by another of the same length."""

    def __init__(self, upstream: str, *, before: str, after: str) -> None:
        assert len(before) == len(after), "a length in the response would be wrong"
        host, _, port = upstream.rpartition(":")

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection((host, int(port))) as broker:
                    back = threading.Thread(target=_respond, args=(broker, self.request), daemon=True)
                    back.start()
                    while data := self.request.recv(1 << 16):
                        broker.sendall(data)
                    broker.shutdown(socket.SHUT_WR)
                    back.join()

        def _respond(broker: socket.socket, client: socket.socket) -> None:
            with broker.makefile("rb") as responses:
                while header := responses.read(_FRAME.size):
                    data = responses.read(_FRAME.unpack(header)[0])
                    try:
                        client.sendall(header + data.replace(before.encode(), after.encode()))
                    except OSError:
                        return

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The host:port for clients."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
