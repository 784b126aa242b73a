"""A stand-in for an inference server such as vLLM: slow to start, one process, HTTP, tokens by server-sent events.

It needs nothing but Python. `GET /health` says 200 once it serves; `POST /generate` with a text streams it back word by word.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAUSE_S = 0.05  # between two tokens


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = self.path == "/health"
        self.answer(200 if found else 404, b"ok\n" if found else b"there is /health and /generate\n")

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, word in enumerate(text.split()):
            time.sleep(PAUSE_S)
            self.chunk(f"data: {json.dumps({'number': number, 'token': word})}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--load-s", type=float, default=0.0, help="how long loading the model takes")
    arguments = parser.parse_args()
    print(f"loading the model for {arguments.load_s:g} s", flush=True)
    time.sleep(arguments.load_s)
    print("serving", flush=True)
    ThreadingHTTPServer(("0.0.0.0", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
