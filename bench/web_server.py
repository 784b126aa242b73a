"""The relay to ports of containers beside nginx as a proxy, before one and the same server: `python -m bench.web_server`.

Requests a second by wrk (32 connections, kept alive, a small page), and 1 GiB down and up by curl. Both proxies run as one process,
with connections kept open to the server behind; the rounds alternate, and what is printed are medians and their ratio. Needs nginx,
wrk and curl.
"""

import argparse
import asyncio
import contextlib
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop

from pilotlight.edge.admission import Door
from pilotlight.edge.dispatch import Dispatch
from pilotlight.edge.metrics import EdgeMetrics
from pilotlight.edge.own_urls import OwnUrls
from pilotlight.edge.ports.exchange import Relay
from pilotlight.edge.ports.protocol import protocol_with
from pilotlight.edge.ports.upstream import Pool
from pilotlight.edge.proxy_auth import ProxyAuth
from pilotlight.edge.rates import Rates
from pilotlight.edge.records import Records
from pilotlight.edge.routes import Routes
from pilotlight.wire.platform_pb2 import WebFunction, WebRoute, WebTask

HOST = "web.localhost"
LARGE_BYTES = 1 << 30
MEASURES = ("requests/s", "MB/s down", "MB/s up")
NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx-{name}.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 0;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/body-{name};
    proxy_temp_path {directory}/proxy-{name};
    fastcgi_temp_path {directory}/f-{name};
    uwsgi_temp_path {directory}/u-{name};
    scgi_temp_path {directory}/s-{name};
    {upstreams}
    server {{
        listen 127.0.0.1:{port} reuseport;
        {locations}
    }}
}}
"""
PROXY = """
        location {path} {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
        }}
"""


class Sink(asyncio.BufferedProtocol):
    """A server that counts the body of a PUT and answers: faster than what is measured."""

    def __init__(self) -> None:
        self._buffer = bytearray(1 << 20)
        self._left = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        if self._left < 0:
            head, _, rest = bytes(self._buffer[:count]).partition(b"\r\n\r\n")
            found = re.search(rb"(?i)content-length: (\d+)", head)
            self._left, count = int(found[1]) if found else 0, len(rest)
            if b"100-continue" in head:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # type: ignore[attr-defined]
        self._left -= count
        if self._left == 0:
            self._left = -1
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]


async def sink(port: int) -> None:
    """Serve the sink."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    await server.serve_forever()


async def relay(port: int, pages: int, uploads: int) -> None:
    """Serve the relay: `web` leads to the pages, `up` to the sink."""
    routes, proxy_auth = Routes("localhost"), ProxyAuth(b"")
    dispatch = Dispatch(100, lambda function_id, now: None)

    async def bind(function_id: str, parameters: object) -> str:
        return function_id

    door = Door(routes, proxy_auth, Rates(0, 0), dispatch, bind)
    for label, to in (("web", pages), ("up", uploads)):
        routes.set(WebRoute(label=label, function_id=label, kind=WebRoute.PORT, port=to, title=label))
        dispatch.set_function(WebFunction(function_id=label, tasks=[WebTask(task_id=label, address="127.0.0.1", slots=1000)]))
    records = Records(EdgeMetrics(), lambda request: None)
    protocol = protocol_with(Relay(routes, door, dispatch, records, Pool(), 150.0, OwnUrls(b"key")))
    config = uvicorn.Config(None, http=protocol, port=port, ws="none", lifespan="off", access_log=False, log_config=None)  # type: ignore[arg-type]
    config.load_app = lambda: None  # type: ignore[method-assign]  # all hosts here are routes
    await uvicorn.Server(config).serve()


@contextlib.contextmanager
def running(*command: str, port: int) -> Iterator[None]:
    """A process, once its port answers."""
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def requests_per_s(port: int, seconds: int) -> float:
    """wrk at 32 connections on a small page."""
    command = ["wrk", "-t1", "-c32", f"-d{seconds}s", "-H", f"Host: {HOST}", f"http://127.0.0.1:{port}/small"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in out, out
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert found, out
    return float(found[1])


def megabytes_per_s(port: int, *arguments: str) -> float:
    """curl, by the time of the whole transfer."""
    command = ["curl", "-sS", "--fail", "-o", "/dev/null", "-w", "%{http_code} %{time_total}", *arguments]
    status, seconds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert status == "200", status
    return LARGE_BYTES / 1e6 / float(seconds)


def measured(port: int, large: Path, seconds: int) -> tuple[float, float, float]:
    """One round: requests a second, MB/s down, MB/s up."""
    base = f"http://127.0.0.1:{port}"
    down = megabytes_per_s(port, "-H", f"Host: {HOST}", f"{base}/large")
    up = megabytes_per_s(port, "-H", "Host: up.localhost", "-T", str(large), f"{base}/up")
    return requests_per_s(port, seconds), down, up


def nginx_config(directory: Path, name: str, port: int, locations: str, upstreams: str = "") -> str:
    """The path of an nginx configuration."""
    path = directory / f"{name}.conf"
    path.write_text(NGINX.format(directory=directory, name=name, port=port, locations=locations, upstreams=upstreams))
    return str(path)


def compare(directory: Path, rounds: int, seconds: int) -> dict[str, list[tuple[float, float, float]]]:
    """Rounds of both proxies and, as the ruler of the machine, of the server itself."""
    (directory / "small").write_text("x" * 100)
    large = directory / "large"
    with large.open("wb") as file:
        file.truncate(LARGE_BYTES)
    pages, uploads, ours, theirs = (free_port() for _ in range(4))
    upstreams = "".join(
        f"upstream {name} {{ server 127.0.0.1:{port}; keepalive 64; keepalive_requests 1000000; }}\n"
        for name, port in (("pages", pages), ("uploads", uploads))
    )
    proxied = PROXY.format(path="/", upstream="pages") + PROXY.format(path="/up", upstream="uploads")
    server = ["nginx", "-c", nginx_config(directory, "server", pages, f"root {directory};")]
    proxy = ["nginx", "-c", nginx_config(directory, "proxy", theirs, proxied, upstreams)]
    me = [sys.executable, "-m", "bench.web_server"]
    results: dict[str, list[tuple[float, float, float]]] = {"nginx": [], "Pilotlight": []}
    with (
        running(*server, port=pages),
        running(*me, "--serve", f"sink {uploads}", port=uploads),
        running(*proxy, port=theirs),
        running(*me, "--serve", f"relay {ours} {pages} {uploads}", port=ours),
    ):
        for _ in range(rounds):
            results["nginx"].append(measured(theirs, large, seconds))
            results["Pilotlight"].append(measured(ours, large, seconds))
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each wrk run")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        what, *ports = arguments.serve.split()
        uvloop.run({"sink": sink, "relay": relay}[what](*map(int, ports)))
        return
    if missing := [name for name in ("nginx", "wrk", "curl") if not shutil.which(name)]:
        sys.exit(f"missing: {', '.join(missing)}; apt-get install nginx-light wrk curl")
    directory = Path(tempfile.mkdtemp(prefix="pilotlight-bench-", dir="/dev/shm"))
    directory.chmod(0o755)
    try:
        results = compare(directory, arguments.rounds, arguments.seconds)
    finally:
        shutil.rmtree(directory)
    print(
        f"{platform.python_implementation()} {platform.python_version()} ({sys.executable}), medians of {arguments.rounds} rounds"
    )
    print(f"{'':12}{'nginx':>12}{'Pilotlight':>12}{'ratio':>8}")
    for index, measure in enumerate(MEASURES):
        nginx, ours = (statistics.median(each[index] for each in results[name]) for name in ("nginx", "Pilotlight"))
        print(f"{measure:12}{nginx:12.0f}{ours:12.0f}{ours / nginx:8.2f}")


if __name__ == "__main__":
    main()
