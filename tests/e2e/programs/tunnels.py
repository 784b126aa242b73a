"""A container that forwards ports: HTTP and HTTP/2 by TLS, an echo by TLS and raw. It says where; asked to, it leaves the echo."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import modal

app = modal.App("tunnels")
leave = threading.Event()


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"you asked for {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/leave":
            leave.set()


def echo(connection: socket.socket) -> None:
    """Give back what comes, once its sender has ended."""
    with connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.sendall(received)


def answer(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()


@app.function(timeout=900)
def forward() -> None:
    pages = ThreadingHTTPServer(("0.0.0.0", 8000), Pages)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    listener = socket.create_server(("0.0.0.0", 8001))
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
    with modal.forward(8000) as web, modal.forward(8002, h2_enabled=True) as h2:
        with modal.forward(8001, unencrypted=True) as raw:
            try:
                with modal.forward(8000):
                    problem = "none"
            except modal.exception.InvalidError as error:
                problem = str(error)
            said = {"web": web.url, "h2": h2.url, "raw": raw.tcp_socket, "tls": raw.tls_socket, "problem": problem}
            print(f"tunnels: {json.dumps(said)}", flush=True)
            leave.wait()
        print("the echo is closed", flush=True)
        threading.Event().wait()


@app.local_entrypoint()
def main() -> None:
    forward.remote()
