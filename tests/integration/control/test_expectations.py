"""Nodes hear of published functions before anybody calls them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from heart import IMAGE_ID, FakeNode, Heart, beat
from modal_proto import api_pb2

from pilotlight.control import expectations
from pilotlight.wire import platform_pb2

HASH = "0" * 64


async def told(heart: Heart, node: FakeNode) -> list[Any]:
    """What a node was told since the last look, after all that was published."""
    if (telling := heart.server.expectations._telling) is not None:
        await telling
    return node.commands("expect_task")


async def mount(heart: Heart, mount_id: str, files: int = 1) -> str:
    """A mount of so many files; returns its id."""
    entries = [platform_pb2.MountEntry(path=f"/root/{number}.py", sha256=HASH) for number in range(files)]
    heart.server.mounts._remember(platform_pb2.Mount(mount_id=mount_id, content_hash=mount_id, files=entries))
    return mount_id


async def publish(heart: Heart, state: int, *functions: api_pb2.Function) -> None:
    """An app of several functions."""
    await heart._image()
    server = heart.server
    app = await server.apps.create(api_pb2.AppCreateRequest(description="several"), "1.6.4", "several")
    published = api_pb2.AppPublishRequest(app_id=app.app_id, app_state=state, name="several")  # type: ignore[arg-type]
    for number, function in enumerate(functions):
        function.function_name, function.image_id = f"f{number}", IMAGE_ID
        create = api_pb2.FunctionCreateRequest(app_id=app.app_id, function=function)
        function_id, _, handle = await server.functions.create(create, "1.6.4", f"f{number}", naming=server.web_routes.naming(app))
        published.function_ids[function.function_name] = function_id
        published.definition_ids[function_id] = handle.definition_id
    await server.apps.publish(published, "test", "1.6.4")


def test_a_publication_tells_nodes_of_each_image_once_and_of_no_secret(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(mount_client_dependencies=True)
        [expected] = await told(heart, node)
        assert (expected.like.image_id, expected.like.image_builder_version) == (IMAGE_ID, "2025.06")
        assert (expected.like.client_version, expected.like.mount_client_dependencies) == ("1.6.4", True)
        assert not (expected.like.task_id or expected.like.arguments or expected.like.secrets)
        started = await node.start(function_id)
        [start] = node.commands("start_task")
        assert (start.environment_name, start.task_id) == (expected.like.environment_name, started.task_id)

    beat(tmp_path, scenario)


def test_functions_with_gpus_and_drained_nodes_expect_nothing(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        await heart.define("g", resources=api_pb2.Resources(gpu_config=api_pb2.GPUConfig(gpu_type="L4", count=1)))
        heart.server.nodes.cordoned.add("no-1")
        await heart.define("f")
        assert not await told(heart, node)

    beat(tmp_path, scenario)


def test_an_image_that_is_not_there_spoils_no_publication(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        assert len(await told(heart, node)) == 1
        heart.server.images._built.clear()
        await heart.server.database.write(lambda connection: connection.exec_driver_sql("UPDATE images SET state = 'failed'"))
        await heart.redefine("f", function_id)
        assert not await told(heart, node)

    beat(tmp_path, scenario)


def test_what_goes_wrong_spoils_neither_a_publication_nor_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        expected = heart.server.expectations
        like, failures = expected._like, [KeyError("a fault")]

        async def fail_once(*arguments: Any) -> platform_pb2.StartTask:
            if failures:
                raise failures.pop()
            return await like(*arguments)

        monkeypatch.setattr(expected, "_like", fail_once)
        await heart.define("f")
        await heart.define("g")
        assert len(await told(heart, node)) == 1

    beat(tmp_path, scenario)


def test_a_publication_waits_for_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()

        async def never(*_: Any) -> platform_pb2.StartTask:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(heart.server.expectations, "_like", never)
        await heart.define()
        telling = heart.server.expectations._telling
        assert telling is not None and not telling.done()
        await heart.server.expectations.close()
        assert telling.cancelled() and not node.commands("expect_task")

    beat(tmp_path, scenario)


def test_what_is_said_of_mounts_is_bounded_and_the_rest_is_told_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        ids = [await mount(heart, f"mo-{number}", files=10) for number in range(4)]
        size_bytes = (await heart.server.mounts.get(ids[0])).ByteSize()
        monkeypatch.setattr(expectations, "MOST_MOUNT_BYTES", 2 * size_bytes)
        await publish(heart, api_pb2.APP_STATE_DEPLOYED, *(api_pb2.Function(mount_ids=[mount_id]) for mount_id in ids))
        shown = [len(expected.like.mounts) for expected in await told(heart, node)]
        assert shown == [1, 1, 0, 0]

    beat(tmp_path, scenario)


def test_what_is_run_once_is_told_once_whatever_it_mounts(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        ids = [await mount(heart, f"mo-{number}") for number in range(4)]
        await publish(heart, api_pb2.APP_STATE_EPHEMERAL, *(api_pb2.Function(mount_ids=[mount_id]) for mount_id in ids))
        [expected] = await told(heart, node)
        assert not expected.like.mounts

    beat(tmp_path, scenario)


def test_only_nodes_that_could_run_a_function_expect_it(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        nodes = [FakeNode(heart, f"no-{number}") for number in range(2)]
        for number, node in enumerate(nodes):
            await node.connect()
            node.session.memory_mib = 1_024 << number
        small, large = api_pb2.Resources(memory_mb=512), api_pb2.Resources(memory_mb=2_048)
        await publish(heart, api_pb2.APP_STATE_DEPLOYED, api_pb2.Function(resources=large))
        assert [len(await told(heart, node)) for node in nodes] == [0, 1]
        await heart.define("both", resources=small)
        assert [len(await told(heart, node)) for node in nodes] == [1, 1]

    beat(tmp_path, scenario)


def test_a_node_that_takes_nothing_is_not_told_more_and_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        [expected] = await told(heart, node)
        command = platform_pb2.NodeCommand(expect_task=expected)
        monkeypatch.setattr(expectations, "MOST_UNSENT_BYTES", 3 * command.ByteSize())
        for _ in range(5):
            await heart.redefine("f", function_id)
            if (telling := heart.server.expectations._telling) is not None:
                await telling
        assert len(node.commands("expect_task")) == 3

    beat(tmp_path, scenario)
