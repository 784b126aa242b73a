"""The node agent between a scripted server and the official client's own container runtime, in plain processes."""

import asyncio
import contextlib
import hashlib
import pickle
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError
from modal_proto import api_grpc, api_pb2
from support.scripted_server import ScriptedServer
from support.simulated_runtime import SimulatedRuntime, SimulatedSettings, simulated_agent, simulated_settings

from pilotlight.node.agent import Agent
from pilotlight.wire import platform_pb2
from pilotlight.wire.status import StatusDetails

TASK = "ta-1"
PROGRAM = """
import os, sys, time
import modal

app = modal.App("program", include_source=False)
plain = modal.Image.debian_slim()

@app.function(image=plain)
def double(number):
    print(f"doubling {number}")
    return 2 * number

@app.function(image=plain)
def sleep(seconds):
    print("sleeping")
    time.sleep(seconds)

@app.function(image=plain)
def stubborn(seconds):
    print("begun", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(seconds)
        except BaseException:
            print("ignored", flush=True)

@app.function(image=plain)
def die(code):
    print("last words", flush=True)
    os._exit(code)

@app.function(image=plain)
def leave(_):
    modal.experimental.stop_fetching_inputs()
    return "left"

@app.function(image=plain)
def flood(lines):
    for _ in range(lines):
        print("x" * 999)
    print("dry")

@app.function(image=plain)
def total(numbers):
    return [sum(numbers)] * len(numbers)
"""


def run(settings: SimulatedSettings, scenario: Callable[[ScriptedServer, Agent], Awaitable[None]]) -> None:
    async def play() -> None:
        async with platform(settings) as (server, agent):
            await scenario(server, agent)

    uvloop.run(play())


@contextlib.asynccontextmanager
async def platform(settings: SimulatedSettings) -> AsyncIterator[tuple[ScriptedServer, Agent]]:
    server = ScriptedServer(settings)
    await server.start()
    runtime = SimulatedRuntime(settings.state / "c")
    agent = simulated_agent(settings, settings.state / "c", runtime)
    running = asyncio.get_running_loop().create_task(agent.run())
    try:
        yield server, agent
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        left = [*settings.gateway_dir.iterdir(), *(settings.run_dir / "tasks").iterdir()]
        await runtime.close()
        await server.stop()
    assert not left


@pytest.fixture
def settings() -> Any:
    made = simulated_settings()
    yield made
    shutil.rmtree(made.state)


def start_task(settings: SimulatedSettings, function: str, **fields: Any) -> platform_pb2.StartTask:
    content = PROGRAM.encode()
    digest = hashlib.sha256(content).hexdigest()
    stored = settings.objects_dir / "sha256" / digest
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(content)
    definition = api_pb2.Function(
        module_name="program",
        function_name=function,
        implementation_name=function,
        definition_type=api_pb2.Function.DEFINITION_TYPE_FILE,
        function_type=api_pb2.Function.FUNCTION_TYPE_FUNCTION,
        supported_input_formats=[api_pb2.DATA_FORMAT_PICKLE],
        supported_output_formats=[api_pb2.DATA_FORMAT_PICKLE],
        object_dependencies=[api_pb2.ObjectDependency(object_id="im-1")],
        batch_max_size=fields.get("batch_max_size", 0),
    )
    arguments = api_pb2.ContainerArguments(
        task_id=TASK,
        function_id="fu-1",
        app_id="ap-1",
        function_def=definition,
        app_layout=api_pb2.AppLayout(objects=[api_pb2.Object(object_id="im-1")]),
    )
    file = platform_pb2.MountEntry(path="/root/program.py", sha256=digest, size=len(content), mode=0o644)
    values: dict[str, Any] = {"startup_timeout_s": 100, "input_timeout_s": 100, "grace_period_s": 30} | fields
    return platform_pb2.StartTask(
        task_id=TASK,
        arguments=arguments.SerializeToString(),
        mounts=[platform_pb2.Mount(mount_id="mo-1", content_hash=digest, files=[file])],
        **values,
    )


def deliver(*arguments: Any, first: int = 0, attempt: int = 0) -> platform_pb2.DeliverInputs:
    leases: list[platform_pb2.Lease] = []
    for number, argument in enumerate(arguments, first):
        data = api_pb2.FunctionInput(args=pickle.dumps(((argument,), {})), data_format=api_pb2.DATA_FORMAT_PICKLE)
        item = api_pb2.FunctionGetInputsItem(input_id=f"in-{number}", input=data, function_call_id="fc-1", retry_count=attempt)
        leases.append(platform_pb2.Lease(input_id=f"in-{number}", attempt=attempt, item=item.SerializeToString()))
    return platform_pb2.DeliverInputs(task_id=TASK, leases=leases)


def value(item: api_pb2.FunctionPutOutputsItem) -> Any:
    assert item.result.status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, item
    return pickle.loads(item.result.data)


def test_inputs_go_in_outputs_come_out_and_a_drained_container_ends_well(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "double", secrets={"COLOUR": "red"}))
        await server.event("task_started")
        await server.event("task_ready")
        await server.send(deliver=deliver(1, 2, 3))
        await server.until(lambda: len(server.items()) == 3)
        assert [value(item) for item in server.items()] == [2, 4, 6]
        await server.send(drain=platform_pb2.DrainTask(task_id=TASK))
        exited = await server.event("task_exited")
        assert (exited.exit_code, exited.reason, exited.was_ready) == (0, "stopped", True)
        assert server.printed(TASK) == "doubling 1\ndoubling 2\ndoubling 3\n"
        assert list(exited.last_lines) == ["doubling 1\n", "doubling 2\n", "doubling 3\n"]

    run(settings, scenario)


def test_outputs_survive_a_server_that_goes_away_and_inputs_are_told_to_the_next(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        server.stores = False
        await server.send(start_task=start_task(settings, "double"))
        await server.event("task_ready")
        await server.send(deliver=deliver(1, 2))
        await server.event("outputs")
        await server.stop()
        before = len(server.items())
        server.stores = True
        await server.start()
        await server.until(lambda: len(server.items()) == before + 2)
        held = server.hellos[-1].tasks[0]
        assert (held.task_id, held.ready) == (TASK, True)
        assert sorted(entry.input_id for entry in held.inputs) == ["in-0", "in-1"]
        assert [value(item) for item in server.items()[before:]] == [2, 4]
        await server.send(stop_task=platform_pb2.StopTask(task_id=TASK))
        exited = await server.event("task_exited")
        assert (exited.exit_code, exited.reason) == (0, "stopped")

    run(settings, scenario)


def test_an_end_that_nobody_heard_is_told_to_the_next_server(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "die"))
        await server.event("task_ready")
        await server.send(deliver=deliver(3))
        await server.until(lambda: "last words" in server.printed(TASK))
        await server.stop()
        server.events.clear()
        await server.start()
        exited = await server.event("task_exited")
        assert [entry.input_id for entry in server.hellos[-1].tasks[0].inputs] == ["in-0"]
        assert (exited.exit_code, exited.reason, list(exited.last_lines)) == (3, "exited", ["last words\n"])

    run(settings, scenario)


def test_outputs_of_a_container_that_has_ended_are_told_to_the_next_server(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        server.stores = False
        await server.send(start_task=start_task(settings, "double"))
        await server.send(deliver=deliver(7))
        await server.event("outputs")
        await server.send(drain=platform_pb2.DrainTask(task_id=TASK))
        await server.event("task_exited")
        await server.stop()
        server.events.clear()
        await server.start()
        await server.event("task_exited")
        assert [entry.input_id for entry in server.hellos[-1].tasks[0].inputs] == ["in-0"]
        assert [event.WhichOneof("event") for event in server.events] == ["outputs", "task_exited"]
        assert [value(item) for item in server.items()] == [14]

    run(settings, scenario)


def test_an_agent_that_ends_tells_what_became_of_its_containers(settings: SimulatedSettings) -> None:
    async def play() -> None:
        async with platform(settings) as (server, _):
            await server.send(start_task=start_task(settings, "sleep"))
            await server.send(deliver=deliver(60))
            await server.until(lambda: "sleeping" in server.printed(TASK))
        exited = (await server.event("task_exited")).reason
        assert exited == "stopped"

    uvloop.run(play())


def test_outputs_that_could_not_be_stored_come_again(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        server.stores = False
        await server.send(start_task=start_task(settings, "double"))
        await server.send(deliver=deliver(4))
        await server.confirm(await server.event("outputs"), "the disk is full")
        again = await server.event("outputs", 2)
        assert [value(item) for item in server.items()] == [8, 8]
        await server.confirm(again)

    run(settings, scenario)


@pytest.mark.parametrize("function", ["sleep", "stubborn"])
def test_an_input_that_takes_too_long_ends_its_container(
    settings: SimulatedSettings, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if function == "sleep":
        monkeypatch.setattr("pilotlight.node.task.TIMEOUT_GRACE_S", 30.0)  # for what ends by itself, on a slow machine too

    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, function, input_timeout_s=1))
        await server.send(deliver=deliver(60))
        late = await server.event("input_timed_out")
        assert (list(late.input_ids), late.timeout_s) == (["in-0"], 1)
        exited = await server.event("task_exited")
        assert (exited.reason, exited.exit_code == 137) == ("input_timeout", function == "stubborn")

    run(settings, scenario)


def test_a_container_that_is_never_ready_is_killed(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "no_such_function", startup_timeout_s=1))
        exited = await server.event("task_exited")
        assert not exited.was_ready
        assert exited.reason in ("startup_timeout", "exited")

    run(settings, scenario)


def test_code_that_cannot_be_imported_says_so(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "no_such_function"))
        failure = await server.event("task_failure")
        assert "no_such_function" in api_pb2.GenericResult.FromString(failure.result).exception
        exited = await server.event("task_exited")
        assert (exited.was_ready, exited.reason) == (False, "exited")

    run(settings, scenario)


def test_a_cancelled_input_is_interrupted_and_one_that_was_not_begun_never_runs(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "sleep"))
        await server.send(deliver=deliver(60, 60))
        await server.until(lambda: "sleeping" in server.printed(TASK))
        await server.send(cancel=platform_pb2.CancelInputs(task_id=TASK, input_ids=["in-0", "in-1"], grace_s=30))
        await server.until(lambda: len(server.items()) == 2)
        assert {item.input_id for item in server.items()} == {"in-0", "in-1"}
        assert {item.result.status for item in server.items()} == {api_pb2.GenericResult.GENERIC_STATUS_TERMINATED}

    run(settings, scenario)


def test_a_cancelled_input_that_does_not_give_up_is_killed_with_its_container(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "stubborn"))
        await server.send(deliver=deliver(60))
        await server.until(lambda: "begun" in server.printed(TASK))
        await server.send(cancel=platform_pb2.CancelInputs(task_id=TASK, input_ids=["in-0"], grace_s=1))
        exited = await server.event("task_exited")
        assert (exited.reason, exited.exit_code) == ("stopped", 137)

    run(settings, scenario)


def test_batches_are_handed_out_together(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "total", batch_max_size=4))
        await server.send(deliver=deliver(1, 2, 3))
        await server.until(lambda: len(server.items()) == 3)
        assert [value(item) for item in server.items()] == [6, 6, 6]

    run(settings, scenario)


def test_a_container_that_wants_no_more_inputs_leaves(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "leave"))
        await server.send(deliver=deliver(0))
        exited = await server.event("task_exited")
        assert value(server.items()[0]) == "left"
        assert (exited.reason, exited.exit_code) == ("stopped", 0)

    run(settings, scenario)


def test_a_flood_of_output_waits_for_the_server_and_loses_nothing(settings: SimulatedSettings) -> None:
    lines = 30_000

    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "flood"))
        await server.event("task_ready")
        await server.send(deliver=deliver(lines))
        await server.until(lambda: "xxx" in server.printed(TASK))
        await server.stop()
        outbox = agent._outbox  # pyright: ignore[reportPrivateUsage]
        full = asyncio.Event()
        outbox.listen(lambda is_full: full.set() if is_full else None)
        if not outbox.full:
            async with asyncio.timeout(60):
                await full.wait()
        assert outbox._log_bytes < 6 * 1024 * 1024  # pyright: ignore[reportPrivateUsage]
        await server.start()
        await server.until(lambda: server.printed(TASK).endswith("dry\n"))
        assert server.printed(TASK).count("\n") == lines + 1

    run(settings, scenario)


def test_calls_that_are_not_the_nodes_pass_through_with_the_tasks_identity(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_task=start_task(settings, "double"))
        await server.event("task_ready")
        path = str(settings.gateway_dir / f"{TASK}.sock")
        async with Channel(path=path, codec=ProtoCodec(), status_details_codec=StatusDetails()) as channel:
            stub = api_grpc.ModalClientStub(channel)
            forged = {"x-pilotlight-task-id": "ta-other", "x-modal-token-id": "ak-1", "x-modal-client-type": "3"}
            reply = await stub.BlobGet(api_pb2.BlobGetRequest(blob_id="bl-1"), metadata=forged)
            assert reply.download_url == "http://edge/bl-1"
            assert server.metadata["x-pilotlight-task-id"] == TASK
            assert server.metadata["x-modal-client-type"] == "3"
            assert "x-modal-token-id" not in server.metadata
            async with stub.AppGetLogs.open() as stream:
                await stream.send_message(api_pb2.AppGetLogsRequest(), end=True)
                assert [batch.entry_id async for batch in stream] == ["0", "1", "2"]
            with pytest.raises(GRPCError) as refused:
                await stub.DictLen(api_pb2.DictLenRequest())
            assert (refused.value.status, refused.value.message) == (Status.RESOURCE_EXHAUSTED, "too much")
            policy = api_pb2.RPCRetryPolicy()
            assert refused.value.details[0].Unpack(policy)
            assert policy.retry_after_secs == 7

    run(settings, scenario)


def test_a_forced_stop_and_a_build(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        await server.send(start_build=platform_pb2.StartBuild(build_id="im-1"))
        assert (await server.event("build_finished")).ok
        await server.send(start_task=start_task(settings, "stubborn"))
        await server.event("task_started")
        await server.send(stop_task=platform_pb2.StopTask(task_id=TASK, force=True))
        exited = await server.event("task_exited")
        assert (exited.reason, exited.exit_code) == ("stopped", 137)

    run(settings, scenario)


def test_a_file_that_was_never_uploaded_fails_the_set_up_in_words(settings: SimulatedSettings, tmp_path: Path) -> None:
    async def scenario(server: ScriptedServer, agent: Agent) -> None:
        request = start_task(settings, "double")
        request.mounts[0].files[0].sha256 = "0" * 64
        await server.send(start_task=request)
        exited = await server.event("task_exited")
        assert (exited.reason, exited.exit_code) == ("setup_failed", 1)
        assert "never uploaded" in exited.message

    run(settings, scenario)
