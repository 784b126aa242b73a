"""An edge as a process of its own, with a server and a node that do what a test says: the node runs ASGI apps of the test.

The apps get what a container's runtime would get, by the official client's own conversion of messages.
"""

import asyncio
import contextlib
import pickle
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from modal._serialization import _deserialize_asgi, _serialize_asgi
from modal_proto import api_pb2

from pilotlight.config import Settings
from pilotlight.wire.frames import Frames, Listener
from pilotlight.wire.platform_pb2 import (
    EdgeCommand,
    EdgeEvent,
    EdgeWelcome,
    FromEdge,
    FromTask,
    ToEdge,
    ToTask,
    WebEnded,
    WebFunction,
    WebLoad,
    WebRefused,
    WebRequest,
    WebRoute,
    WebTaken,
    WebTask,
)

DEADLINE_S = 60.0
FUNCTION = "fu-1"
EDGE = """
import sys, socket, uvloop
from pilotlight import logging
from pilotlight.config import Settings
from pilotlight.edge.server import serve
logging.configure("INFO", "edge")
settings = Settings.model_validate_json(sys.argv[1])
uvloop.run(serve(settings, [socket.socket(fileno=int(sys.argv[2]))], lambda: print("ready", flush=True)))
"""

App = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(100)
    return made


def route(label: str = "site", **more: Any) -> EdgeCommand:
    return EdgeCommand(set_route=WebRoute(**{"label": label, "function_id": FUNCTION, "title": f"app.{label}", **more}))


@dataclass
class FakeServer:
    """Says `known` to an edge that connects; keeps what edges say."""

    path: Path
    known: list[EdgeCommand] = field(default_factory=list)
    hellos: list[Any] = field(default_factory=list)
    loads: list[WebLoad] = field(default_factory=list)
    requests: list[WebRequest] = field(default_factory=list)

    async def start(self) -> None:
        self._heard = asyncio.Condition()
        self._edges: list[Frames[FromEdge]] = []
        self._listener = Listener(FromEdge, self._serve)
        await self._listener.start(listening(self.path))

    async def stop(self) -> None:
        await self._listener.close()

    async def tell(self, *commands: EdgeCommand) -> None:
        for edge in self._edges:
            await edge.send(ToEdge(commands=commands))

    async def until(self, reached: Callable[["FakeServer"], Any]) -> None:
        async with asyncio.timeout(DEADLINE_S), self._heard:
            await self._heard.wait_for(lambda: reached(self))

    async def _serve(self, frames: Frames[FromEdge]) -> None:
        while (message := await frames.receive()) is not None:
            for event in message.events:
                await self._take(event, frames)
            async with self._heard:
                self._heard.notify_all()
        self._edges.remove(frames)

    async def _take(self, event: EdgeEvent, frames: Frames[FromEdge]) -> None:
        if event.HasField("hello"):
            self.hellos.append(event.hello)
            await frames.send(ToEdge(commands=[EdgeCommand(welcome=EdgeWelcome()), *self.known]))
            self._edges.append(frames)
        elif event.HasField("load"):
            self.loads.append(event.load)
        else:
            self.requests.extend(event.requests.requests)


class Died(Exception):
    """What an app raises for its container to die."""


@dataclass
class Aside:
    """What an app sends in place of a message that is in the object store."""

    blob_id: str


@dataclass
class FakeNode:
    """Runs `app` for each request. `refusals`: of the next so many. `before_taken` is awaited before the container has it."""

    path: Path
    app: App
    refusals: int = 0
    deaths: int = 0  # of containers that have not taken the request, the next so many
    opened: list[Any] = field(default_factory=list)
    scopes: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    received_messages: int = 0

    async def start(self) -> None:
        self._listener = Listener(ToTask, self._serve, 1 << 20)
        await self._listener.start(listening(self.path))

    async def stop(self) -> None:
        await self._listener.close()

    async def _serve(self, frames: Frames[ToTask]) -> None:
        self.connections += 1
        while (message := await frames.receive()) is not None:
            self.opened.append(message.open)
            await self._request(message.open, frames)

    async def _request(self, opened: Any, frames: Frames[ToTask]) -> None:
        chunks: asyncio.Queue[Any] = asyncio.Queue(1)
        reading = asyncio.ensure_future(self._read(frames, chunks))
        try:
            if self.refusals:
                self.refusals -= 1
                await frames.send(FromTask(refused=WebRefused(why="it is draining")))
            elif self.deaths:
                self.deaths -= 1
                await frames.send(FromTask(ended=WebEnded(why="it was killed")))
            else:
                await self._run(opened, frames, chunks)
            while not reading.done():  # until the edge has said its last
                get = asyncio.ensure_future(chunks.get())
                await asyncio.wait((get, reading), return_when=asyncio.FIRST_COMPLETED)
                get.cancel()
        finally:
            reading.cancel()

    async def _run(self, opened: Any, frames: Frames[ToTask], chunks: asyncio.Queue[Any]) -> None:
        item = api_pb2.FunctionGetInputsItem.FromString(opened.item)
        assert (item.input_id, item.function_call_id) == (opened.input_id, opened.call_id)
        ((scope,), _) = pickle.loads(item.input.args)
        self.scopes.append(scope)
        await frames.send(FromTask(taken=WebTaken()))
        index = 0

        async def send(message: Any) -> None:
            nonlocal index
            index += 1
            chunk = api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, index=index)
            if isinstance(message, Aside):
                chunk.data_blob_id = message.blob_id
            else:
                chunk.data = _serialize_asgi(message).SerializeToString()
            request = api_pb2.FunctionCallPutDataRequest(data_chunks=[chunk])
            await frames.send(FromTask(data_out=request.SerializeToString()))

        status, why = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, ""
        try:
            await self._while_open(frames, self.app(scope, chunks.get, send))
        except Died as error:
            return await frames.send(FromTask(ended=WebEnded(why=str(error))))
        except Exception as error:  # noqa: BLE001 - as the runtime does
            status, why = api_pb2.GenericResult.GENERIC_STATUS_FAILURE, repr(error)
        result = api_pb2.GenericResult(status=status, exception=why)
        return await frames.send(FromTask(ended=WebEnded(result=result.SerializeToString())))

    async def _while_open(self, frames: Frames[ToTask], running: Awaitable[None]) -> None:
        app = asyncio.ensure_future(running)
        await asyncio.wait((app, frames.closed), return_when=asyncio.FIRST_COMPLETED)
        app.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await app

    async def _read(self, frames: Frames[ToTask], chunks: asyncio.Queue[Any]) -> None:
        index = 0
        while (message := await frames.receive()) is not None and not message.close:
            chunk = api_pb2.DataChunk.FromString(message.data_in)
            index += 1
            assert chunk.index == index
            self.received_messages += 1
            await chunks.put(_deserialize_asgi(api_pb2.Asgi.FromString(chunk.data)))


@dataclass
class WebPlatform:
    """The three of them, and an HTTP client. Hosts are those of `settings.web_domain`."""

    settings: Settings
    server: FakeServer
    node: FakeNode
    edge: asyncio.subprocess.Process
    http: httpx.AsyncClient

    @property
    def port(self) -> int:
        return self.settings.web_port

    def url(self, path: str = "/", label: str = "site", scheme: str = "http") -> str:
        return f"{scheme}://{label}.localhost:{self.port}{path}"

    async def tasks(self, *slots: int, **more: Any) -> None:
        """Give the function containers with so many slots each."""
        await self.server.tell(self.function(*slots, **more))

    def function(self, *slots: int, function_id: str = FUNCTION, max_waiting: int = 100) -> EdgeCommand:
        tasks = [
            WebTask(task_id=f"ta-{number}", node_address=f"unix:{self.node.path}", address="127.0.0.1", slots=count)
            for number, count in enumerate(slots, 1)
        ]
        return EdgeCommand(set_function=WebFunction(function_id=function_id, tasks=tasks, max_waiting=max_waiting))

    def resident_mib(self) -> float:
        """Memory of the edge's process."""
        status = Path(f"/proc/{self.edge.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024


@contextlib.asynccontextmanager
async def web_platform(
    state: Path, app: App, *slots: int, commands: list[EdgeCommand] | None = None, **more: Any
) -> AsyncIterator[WebPlatform]:
    """All of it, up; at the end the edge must end by itself."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings = Settings(state=state, web=f"127.0.0.1:{listener.getsockname()[1]}", **{"web_rate_limit": 0, **more})
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    server, node = FakeServer(settings.edges_socket_path), FakeNode(settings.web_socket_path, app)
    await server.start()
    await node.start()
    arguments = (sys.executable, "-c", EDGE, settings.model_dump_json(), str(listener.fileno()))
    edge = await asyncio.create_subprocess_exec(*arguments, pass_fds=[listener.fileno()], stdout=asyncio.subprocess.PIPE)
    try:
        async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
            platform = WebPlatform(settings, server, node, edge, http)
            server.known = [route(), *(commands or [])] + ([platform.function(*slots)] if slots else [])
            assert edge.stdout
            async with asyncio.timeout(DEADLINE_S):
                assert await edge.stdout.readline() == b"ready\n"
                await server.until(lambda server: server.hellos)
            yield platform
    finally:
        listener.close()
        with contextlib.suppress(ProcessLookupError):
            edge.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            code = await edge.wait()
        await node.stop()
        await server.stop()
        shutil.rmtree(settings.run_dir)
        assert code == 0
