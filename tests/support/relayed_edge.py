"""An HTTP server that relays to ports, in this process: the edge's protocol, door and queue, with routes that a test sets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn

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
from pilotlight.wire.platform_pb2 import WebFunction, WebRequest, WebRoute, WebTask

HOST = "web.localhost"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RelayedEdge:
    """`HOST` leads to the function fu-1, other labels as tests set them; all other hosts to a page that says "edge"."""

    port: int
    routes: Routes
    dispatch: Dispatch
    proxy_auth: ProxyAuth
    pool: Pool
    served: list[WebRequest] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client's connection; closed at the end of the test, if not before."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        self.clients.append(writer)
        return reader, writer

    def lead_to(self, port: int, *, function_id: str = "fu-1", label: str = "web", slots: int = 100, **route: Any) -> None:
        """Route a label to a port of a container."""
        self.routes.set(
            WebRoute(label=label, function_id=function_id, kind=WebRoute.PORT, port=port, title=f"app.{label}", **route)
        )
        self.have_tasks({f"ta-{port}": "127.0.0.1"}, function_id=function_id, slots=slots)

    def have_tasks(self, tasks: Mapping[str, str], *, function_id: str = "fu-1", slots: int = 100) -> None:
        """The containers of a function, by their addresses."""
        told = [WebTask(task_id=task_id, address=address, slots=slots) for task_id, address in tasks.items()]
        self.dispatch.set_function(WebFunction(function_id=function_id, tasks=told, max_waiting=10))

    def has_slots_taken(self, function_id: str = "fu-1") -> bool:
        return bool(self.dispatch.load(function_id).running)

    async def request_ended(self) -> WebRequest:
        """The next request that has ended."""
        while not self.served:
            self.ended.clear()
            await self.ended.wait()
        return self.served.pop(0)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something about the queue is so."""
        while not reached():
            self.changed.clear()
            await self.changed.wait()

    def _ended(self, request: WebRequest) -> None:
        self.served.append(request)
        self.ended.set()


async def _page(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"edge " + scope["path"].encode() + b" " + body})


class _Started(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def relayed_edge(*, redirect_after_s: float = 0.0, max_rate: int = 0, **config: Any) -> AsyncIterator[RelayedEdge]:
    """The server, until the block ends."""
    routes, proxy_auth, pool = Routes("localhost"), ProxyAuth(bytes(32)), Pool()
    routes.keep_only(())

    def loaded(function_id: str, now: bool) -> None:
        edge.changed.set()

    async def bind(function_id: str, parameters: Mapping[str, str]) -> str:
        raise AssertionError("no class here has parameters")

    dispatch = Dispatch(100, loaded)
    door = Door(routes, proxy_auth, Rates(max_rate, 0), dispatch, bind)
    listener = socket.create_server(("127.0.0.1", 0))
    edge = RelayedEdge(listener.getsockname()[1], routes, dispatch, proxy_auth, pool)
    records = Records(EdgeMetrics(), edge._ended)
    protocol = protocol_with(Relay(routes, door, dispatch, records, pool, redirect_after_s, OwnUrls(b"key")))
    options: dict[str, Any] = {"ws": "none", "lifespan": "off", "access_log": False, "log_config": None, "interface": "asgi3"}
    server = _Started(uvicorn.Config(_page, http=protocol, timeout_graceful_shutdown=2, **(options | config)))
    serving = asyncio.create_task(server.serve([listener]))
    await server.is_started.wait()
    try:
        yield edge
    finally:
        for client in edge.clients:
            client.close()
        await asyncio.gather(*(client.wait_closed() for client in edge.clients), return_exceptions=True)
        server.should_exit = True
        await serving
        pool.close()


@contextlib.asynccontextmanager
async def upstream(handler: Handler) -> AsyncIterator[int]:
    """A server in a "container": its port. The handler's connection is closed when it returns."""
    running: list[asyncio.Task[None]] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the relay closed it
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.append(asyncio.create_task(run(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*running)
