"""Web requests through a node: frames in, the official client's own ASGI runtime in a plain process, frames out."""

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop
from modal_proto import api_pb2
from support.scripted_edge import EdgeConnection
from support.scripted_server import ScriptedServer
from support.simulated_runtime import SimulatedRuntime, SimulatedSettings, simulated_agent, simulated_settings

from pilotlight.wire import platform_pb2

TASK = "ta-1"
PROGRAM = """
import asyncio, os
import modal

app = modal.App("program", include_source=False)
plain = modal.Image.debian_slim()

async def serve(scope, receive, send):
    if scope["type"] == "websocket":
        return await echo(receive, send)
    await PATHS[scope["path"]](receive, send)

async def respond(send, body, more=False):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body, "more_body": more})

async def say_ok(receive, send):
    await receive()
    await respond(send, b"ok")

async def count(receive, send):
    total, parts, more = 0, 0, True
    while more:
        message = await receive()
        total, parts, more = total + len(message["body"]), parts + 1, message["more_body"]
    await respond(send, f"{total} in {parts}".encode())

async def events(receive, send):
    await respond(send, b"", more=True)
    for number in range(20):
        await send({"type": "http.response.body", "body": f"data: {number}\\n\\n".encode(), "more_body": number < 19})

async def much(receive, send):
    await respond(send, b"", more=True)
    for number in range(64):
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": number < 63})
        print("part", number, flush=True)

async def await_end(receive, send):
    await receive()
    print("open", flush=True)
    print((await receive())["type"], flush=True)

async def meet(receive, send):
    global met
    met += 1
    if met == 32:
        everybody.set()
    await everybody.wait()
    await respond(send, b"met")

met, everybody = 0, asyncio.Event()

async def hang(receive, send):
    print("hanging", flush=True)
    await asyncio.sleep(60)

async def die(receive, send):
    print("dying", flush=True)
    os._exit(3)

async def raises(receive, send):
    raise ValueError("no")

async def gate(receive, send):
    await respond(send, b"begun", more=True)
    await receive()
    await receive()
    await send({"type": "http.response.body", "body": b" done"})

async def echo(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"].upper()})
    print(message["type"], message.get("code"), flush=True)

PATHS = {"/": say_ok, "/count": count, "/events": events, "/much": much, "/wait": await_end, "/meet": meet, "/hang": hang,
         "/die": die, "/raise": raises, "/gate": gate}

@app.function(image=plain)
@modal.asgi_app()
def web():
    return serve

@app.function(image=plain)
@modal.wsgi_app()
def wsgi():
    def application(environ, start_response):
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["wsgi.input"].read()]
    return application
"""

Scenario = Callable[[ScriptedServer, "Edge"], Awaitable[None]]


class Edge:
    """Connections to the node of a test."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self._path = settings.web_socket_path

    async def connect(self, task_id: str = TASK) -> EdgeConnection:
        return await EdgeConnection.open(self._path, task_id)


def run(settings: SimulatedSettings, scenario: Scenario) -> None:
    async def play() -> None:
        async with platform(settings) as server:
            await scenario(server, Edge(settings))

    uvloop.run(play())


@contextlib.asynccontextmanager
async def platform(settings: SimulatedSettings) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(settings)
    await server.start()
    runtime = SimulatedRuntime(settings.state / "c")
    running = asyncio.get_running_loop().create_task(simulated_agent(settings, settings.state / "c", runtime).run())
    try:
        yield server
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await runtime.close()
        await server.stop()
    assert not settings.web_socket_path.exists()


@pytest.fixture
def settings() -> Any:
    made = simulated_settings()
    yield made
    shutil.rmtree(made.state)


def start_task(settings: SimulatedSettings, function: str = "web", *, slots: int = 1, **fields: Any) -> platform_pb2.StartTask:
    content = PROGRAM.encode()
    digest = hashlib.sha256(content).hexdigest()
    stored = settings.objects_dir / "sha256" / digest
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(content)
    kind = api_pb2.WEBHOOK_TYPE_WSGI_APP if function == "wsgi" else api_pb2.WEBHOOK_TYPE_ASGI_APP
    definition = api_pb2.Function(
        module_name="program",
        function_name=function,
        implementation_name=function,
        definition_type=api_pb2.Function.DEFINITION_TYPE_FILE,
        function_type=api_pb2.Function.FUNCTION_TYPE_GENERATOR,
        webhook_config=api_pb2.WebhookConfig(type=kind, async_mode=api_pb2.WEBHOOK_ASYNC_MODE_AUTO),
        supported_input_formats=[api_pb2.DATA_FORMAT_ASGI],
        supported_output_formats=[api_pb2.DATA_FORMAT_ASGI, api_pb2.DATA_FORMAT_GENERATOR_DONE],
        object_dependencies=[api_pb2.ObjectDependency(object_id="im-1")],
        max_concurrent_inputs=slots if slots > 1 else 0,
    )
    return task_of(definition, digest, len(content), **fields)


def task_of(definition: api_pb2.Function, digest: str, size: int, **fields: Any) -> platform_pb2.StartTask:
    arguments = api_pb2.ContainerArguments(
        task_id=TASK,
        function_id="fu-1",
        app_id="ap-1",
        function_def=definition,
        app_layout=api_pb2.AppLayout(objects=[api_pb2.Object(object_id="im-1")]),
    )
    file = platform_pb2.MountEntry(path="/root/program.py", sha256=digest, size=size, mode=0o644)
    values: dict[str, Any] = {"startup_timeout_s": 30, "input_timeout_s": 60, "grace_period_s": 5} | fields
    return platform_pb2.StartTask(
        task_id=TASK,
        arguments=arguments.SerializeToString(),
        mounts=[platform_pb2.Mount(mount_id="mo-1", content_hash=digest, files=[file])],
        **values,
    )


async def begin(server: ScriptedServer, settings: SimulatedSettings, function: str = "web", **fields: Any) -> None:
    await server.send(start_task=start_task(settings, function, **fields))
    await server.event("task_ready")


def test_requests_follow_each_other_on_one_connection_and_the_server_hears_of_none(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings)
        assert server.hellos[0].web_address == f"unix:{settings.web_socket_path}"
        assert server.all("task_ready")[0].address == "127.0.0.1"
        assert settings.web_socket_path.stat().st_mode & 0o777 == 0o600
        connection = await edge.connect()
        for number in range(3):
            assert await connection.get(f"fc-{number}") == (200, b"ok")
            assert connection.taken == 1
        await server.send(drain=platform_pb2.DrainTask(task_id=TASK))
        exited = await server.event("task_exited")
        assert (exited.reason, exited.exit_code) == ("stopped", 0)
        assert not server.all("outputs")

    run(settings, scenario)
