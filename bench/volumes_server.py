"""Child: a bare HTTP server on the loopback. It drops what is PUT, and sends parts of one file for GET.

    python -m bench.volumes_server FILE

GET /START/LENGTH: those bytes of the file, by sendfile(2). A thread for each connection.
It says its port, then serves until it is ended.
"""

import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.processes import say

BUFFER_BYTES = 1 << 20


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive."""

    protocol_version = "HTTP/1.1"
    source = -1

    def do_PUT(self) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        left = int(self.headers["content-length"])
        while left:
            count = self.rfile.readinto(buffer[: min(left, BUFFER_BYTES)])  # type: ignore[attr-defined]
            if not count:
                raise ConnectionError(f"the body ended {left} bytes early")
            left -= count
        self._head(0)

    def do_GET(self) -> None:
        position, length = (int(number) for number in self.path[1:].split("/"))
        self._head(length)
        end = position + length
        while position < end:
            position += os.sendfile(self.connection.fileno(), self.source, position, end - position)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("content-length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said of requests."""


class Server(ThreadingHTTPServer):
    """As many connections at once as the client makes."""

    request_queue_size = 256
    daemon_threads = True


def main() -> None:
    """Serve one file."""
    Handler.source = os.open(sys.argv[1], os.O_RDONLY)
    with Server(("127.0.0.1", 0), Handler) as server:
        assert isinstance(server, socketserver.TCPServer)
        say(port=server.server_address[1])
        server.serve_forever()


if __name__ == "__main__":
    main()
