"""Web requests through a node: frames in, the official client's own ASGI runtime in a plain process, frames out."""

import asyncio
import contextlib
import hashlib
import shutil
import socket
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

PATHS = {"/": say_ok, "/count": count, "/events": events, "/wait": await_end, "/meet": meet, "/hang": hang,
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

SERVER_PROGRAM = """
import os, signal, socket, threading, time
import modal

app = modal.App("program", include_source=False)
plain = modal.Image.debian_slim()

def wait_for_handler():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    print("armed", flush=True)

def answer(listening):
    listening.accept()[0].close()
    while True:
        listening.accept()[0].close()
        if os.environ["LEAVES"]:
            os._exit(7)

@app.server(image=plain, port=int(os.environ["PORT"]), routing_region="local")
class Own:
    @modal.enter()
    def start(self):
        threading.Thread(target=wait_for_handler, daemon=True).start()
        if os.environ["LISTENS"]:
            listening = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
            threading.Thread(target=answer, args=(listening,), daemon=True).start()

    @modal.exit()
    def stop(self):
        print("goodbye", flush=True)
"""

Scenario = Callable[[ScriptedServer, "Edge"], Awaitable[None]]


class Edge:
    """Connections to the node of a test."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self._path = settings.web_socket_path
        self._connections: list[EdgeConnection] = []

    async def connect(self, task_id: str = TASK) -> EdgeConnection:
        self._connections.append(await EdgeConnection.open(self._path, task_id))
        return self._connections[-1]

    async def close(self) -> None:
        for connection in self._connections:
            connection.frames.abort()
            await connection.frames.closed


def run(settings: SimulatedSettings, scenario: Scenario) -> None:
    async def play() -> None:
        async with platform(settings) as server:
            edge = Edge(settings)
            try:
                await scenario(server, edge)
            finally:
                await edge.close()

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
    return task_of(definition, *store(settings, PROGRAM), **fields)


def store(settings: SimulatedSettings, program: str) -> tuple[str, int]:
    """Where mounts find a program; returns its digest and its size in bytes."""
    content = program.encode()
    digest = hashlib.sha256(content).hexdigest()
    stored = settings.objects_dir / "sha256" / digest
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(content)
    return digest, len(content)


def task_of(definition: api_pb2.Function, digest: str, size: int, **fields: Any) -> platform_pb2.StartTask:
    arguments = api_pb2.ContainerArguments(
        task_id=TASK,
        function_id="fu-1",
        app_id="ap-1",
        function_def=definition,
        app_layout=api_pb2.AppLayout(
            objects=[
                api_pb2.Object(object_id="im-1"),
                api_pb2.Object(object_id="fu-1", function_handle_metadata=api_pb2.FunctionHandleMetadata(function_name="own")),
            ],
            function_ids={definition.function_name: "fu-1"},
        ),
    )
    file = platform_pb2.MountEntry(path="/root/program.py", sha256=digest, size=size, mode=0o644)
    values: dict[str, Any] = {"startup_timeout_s": 100, "input_timeout_s": 100, "grace_period_s": 30} | fields
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


def test_a_body_that_comes_in_pieces_arrives_in_order(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings)
        connection = await edge.connect()
        await connection.begin("fc-1", "/count", method="POST")
        for _ in range(9):
            await connection.body(b"x" * 3_000_000, more=True)
        await connection.body(b"end")
        await connection.close()
        assert await connection.response() == (200, b"27000003 in 10")

    run(settings, scenario)


def test_a_wsgi_app_gets_its_body(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings, "wsgi")
        connection = await edge.connect()
        assert await connection.get("fc-1", data=b"body") == (200, b"body")

    run(settings, scenario)


def test_events_come_in_order_and_before_the_response_ends(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings)
        connection = await edge.connect()
        assert await connection.get("fc-1", "/events") == (200, b"".join(b"data: %d\n\n" % number for number in range(20)))
        await connection.begin("fc-2", "/gate")
        await connection.body(b"1", more=True)
        begun = await connection.messages()
        assert begun[0].http_response_start.status == 200
        await connection.body(b"2")
        await connection.close()
        while not begun[-1].http_response_body.body.endswith(b"done"):
            begun += await connection.messages()
        assert b"".join(message.http_response_body.body for message in begun) == b"begun done"
        assert (await connection.next()).HasField("ended")

    run(settings, scenario)


def test_requests_run_side_by_side(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings, slots=32)
        connections = [await edge.connect() for _ in range(32)]
        # Each is answered only once all of them have been begun.
        answers = await asyncio.gather(*(each.get(f"fc-{number}", "/meet") for number, each in enumerate(connections)))
        assert answers == [(200, b"met")] * 32

    run(settings, scenario)


def test_a_websocket_and_its_end(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings, slots=2)
        first, second = await edge.connect(), await edge.connect()
        for number, connection in enumerate((first, second)):
            await connection.begin(f"fc-{number}", kind="websocket")
            await connection.say(websocket_connect=api_pb2.Asgi.WebsocketConnect())
            assert (await connection.messages())[0].HasField("websocket_accept")
            for word in ("one", "two"):
                await connection.say(websocket_receive=api_pb2.Asgi.WebsocketReceive(text=word))
                assert (await connection.messages())[0].websocket_send.text == word.upper()
        await first.say(websocket_disconnect=api_pb2.Asgi.WebsocketDisconnect(code=1001))
        await first.close()
        assert (await first.next()).HasField("ended")
        second.frames.close()
        await server.until(lambda: server.printed(TASK) == "websocket.disconnect 1001\nwebsocket.disconnect 1006\n")

    run(settings, scenario)


def test_the_program_is_told_of_a_client_that_left_and_of_an_edge_that_broke_off(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings)
        connection = await edge.connect()
        await connection.begin("fc-1", "/wait")
        await connection.body()
        await connection.say(http_disconnect=api_pb2.Asgi.HttpDisconnect())
        await connection.close()
        assert (await connection.next()).HasField("ended")
        await connection.begin("fc-2", "/wait")
        await connection.body()
        await server.until(lambda: server.printed(TASK) == "open\nhttp.disconnect\nopen\n")
        connection.frames.close()
        await server.until(lambda: server.printed(TASK).endswith("open\nhttp.disconnect\n"))
        assert await (await edge.connect()).get("fc-3") == (200, b"ok")

    run(settings, scenario)


def test_a_request_that_is_given_up_before_its_turn_never_runs(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings)
        first, given_up, last = await edge.connect(), await edge.connect(), await edge.connect()
        await first.begin("fc-1", "/wait")
        await first.body()
        await server.until(lambda: server.printed(TASK) == "open\n")
        await given_up.begin("fc-2", "/hang")
        await given_up.body()
        given_up.frames.close()
        await given_up.frames.closed
        waiting = asyncio.create_task(last.get("fc-3"))
        await first.close()
        first.frames.close()
        assert await waiting == (200, b"ok")
        assert "hanging" not in server.printed(TASK)

    run(settings, scenario)


def test_a_container_that_leaves_refuses_what_it_has_not_begun(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings)
        running, waiting, late = await edge.connect(), await edge.connect(), await edge.connect()
        await running.begin("fc-1", "/gate")
        await running.body(b"1", more=True)
        assert (await running.messages())[0].http_response_start.status == 200
        await waiting.begin("fc-2")
        await waiting.body()
        await waiting.close()
        await server.send(drain=platform_pb2.DrainTask(task_id=TASK))
        refused = await waiting.next()
        assert "takes no more requests" in refused.refused.why
        assert waiting.taken == 0
        await late.begin("fc-3")
        await late.close()
        assert "takes no more requests" in (await late.next()).refused.why
        await running.body(b"2")
        await running.close()
        while not (await running.messages())[-1].http_response_body.body.endswith(b"done"):
            pass  # what it said when it began may come in a frame of its own
        assert (await server.event("task_exited")).reason == "stopped"
        # A refused connection is free for the next request.
        await late.begin("fc-4")
        await late.close()
        assert (await late.next()).HasField("refused")

    run(settings, scenario)


def test_what_a_container_has_when_it_dies_ends_without_a_result(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings, slots=2)
        hanging, dying, waiting = await edge.connect(), await edge.connect(), await edge.connect()
        await hanging.begin("fc-1", "/hang")
        await hanging.body()
        await server.until(lambda: "hanging" in server.printed(TASK))
        await waiting.begin("fc-3")  # is taken only if the other slot is free for a moment: either end is right
        await dying.begin("fc-2", "/die")
        await dying.body()
        for connection in (hanging, dying):
            ended = (await connection.next()).ended
            assert (ended.result, connection.taken) == (b"", 1)
            assert "exit code 3" in ended.why
        exited = await server.event("task_exited")
        assert (exited.reason, exited.exit_code) == ("exited", 3)

    run(settings, scenario)


def test_a_request_that_takes_too_long_ends_its_container_and_the_server_hears_of_the_end_alone(
    settings: SimulatedSettings,
) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings, input_timeout_s=1)
        connection = await edge.connect()
        await connection.begin("fc-1", "/hang")
        await connection.body()
        ended = (await connection.next()).ended
        result = api_pb2.GenericResult.FromString(ended.result)
        assert result.status == api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT
        assert "timeout of 1 s" in result.exception
        assert (await server.event("task_exited")).reason == "input_timeout"
        assert not server.all("input_timed_out")
        assert not server.all("outputs")

    run(settings, scenario)


def test_an_app_that_raises_ends_the_request_with_its_exception(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings)
        connection = await edge.connect()
        await connection.begin("fc-1", "/raise")
        await connection.body()
        result = api_pb2.GenericResult.FromString((await connection.next()).ended.result)
        assert result.status == api_pb2.GenericResult.GENERIC_STATUS_FAILURE
        assert "ValueError('no')" in result.exception
        await connection.close()
        assert await connection.get("fc-2") == (200, b"ok")

    run(settings, scenario)


def test_a_new_server_is_told_of_the_container_and_its_address_and_of_no_request(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await begin(server, settings)
        connection = await edge.connect()
        await connection.begin("fc-1", "/gate")
        await connection.body(b"1", more=True)
        assert (await connection.messages())[0].http_response_start.status == 200
        await server.stop()
        await server.start()
        await server.until(lambda: len(server.hellos) == 2)
        held = server.hellos[1].tasks[0]
        assert (held.task_id, held.ready, held.address, list(held.inputs)) == (TASK, True, "127.0.0.1", [])
        await connection.body(b"2")
        await connection.close()
        last = (await connection.messages())[-1].http_response_body
        while last.more_body:  # the runtime sends the first part by itself if the second takes its time
            last = (await connection.messages())[-1].http_response_body
        assert last.body.endswith(b"done")

    run(settings, scenario)


def test_what_does_not_begin_with_a_request_is_no_connection_of_the_edge(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await server.until(lambda: server.hellos)
        connection = await edge.connect()
        await connection.close()
        assert await connection.frames.receive() is None

    run(settings, scenario)


def test_a_server_of_its_own_is_ready_when_its_port_answers_and_ends_by_its_hooks(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        port = unused_port()
        await server.send(start_task=start_server(settings, port))
        ready = await server.event("task_ready")
        _, writer = await asyncio.open_connection(ready.address, port)
        writer.close()
        await server.until(lambda: "armed" in server.printed(TASK))  # the client listens to signals
        await server.send(drain=platform_pb2.DrainTask(task_id=TASK))
        await server.send(stop_task=platform_pb2.StopTask(task_id=TASK))
        exited = await server.event("task_exited")
        assert (exited.reason, exited.exit_code, exited.was_ready) == ("stopped", 0, True)
        assert "goodbye" in server.printed(TASK)

    run(settings, scenario)


def test_a_server_of_its_own_that_never_answers_is_killed(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await server.send(start_task=start_server(settings, unused_port(), listens="", startup_timeout_s=3))
        exited = await server.event("task_exited")
        assert (exited.reason, exited.was_ready) == ("startup_timeout", False)

    run(settings, scenario)


def test_a_server_of_its_own_that_leaves_has_died(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, edge: Edge) -> None:
        await server.send(start_task=start_server(settings, port := unused_port(), leaves="yes"))
        await server.event("task_ready")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        exited = await server.event("task_exited")
        assert (exited.reason, exited.exit_code, exited.was_ready) == ("exited", 7, True)

    run(settings, scenario)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def start_server(
    settings: SimulatedSettings, port: int, *, listens: str = "yes", leaves: str = "", startup_timeout_s: int = 100
) -> platform_pb2.StartTask:
    definition = api_pb2.Function(
        module_name="program",
        function_name="Own",
        implementation_name="Own",
        definition_type=api_pb2.Function.DEFINITION_TYPE_FILE,
        function_type=api_pb2.Function.FUNCTION_TYPE_FUNCTION,
        is_server=True,
        http_config=api_pb2.HTTPConfig(port=port, proxy_regions=["local"]),
        object_dependencies=[api_pb2.ObjectDependency(object_id="im-1")],
    )
    return task_of(
        definition,
        *store(settings, SERVER_PROGRAM),
        server=platform_pb2.ContainerServer(port=port, startup_timeout_s=startup_timeout_s, exit_grace_period_s=20),
        secrets={"PORT": str(port), "LISTENS": listens, "LEAVES": leaves},
        startup_timeout_s=1,  # not for those: they take no inputs
    )
