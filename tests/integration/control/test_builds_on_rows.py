"""Images that are asked for while their node, or the server, is away for a moment."""

import asyncio
from pathlib import Path

from heart import FakeNode, Heart, beat
from modal_proto import api_pb2

from pilotlight.wire import platform_pb2

ASKED = api_pb2.ImageGetOrCreateRequest(image=api_pb2.Image(dockerfile_commands=["FROM base"]), builder_version="2025.06")


async def ask(heart: Heart) -> str:
    return (await heart.server.images.get_or_create(ASKED, "1.6.4", "key")).image_id


async def watch(heart: Heart, image_id: str, timeout_s: float = 20.0) -> tuple[str, list[int]]:
    """What a build says within that time, and its results: one at most."""
    said, results = "", []
    async for reply in heart.server.images.join(image_id, 0, timeout_s, include_finished_logs=True):
        said += "".join(line.data for line in reply.task_logs)
        if reply.eof:
            results.append(reply.result.status)
    return said, results


async def finish(heart: Heart, node: FakeNode) -> None:
    [command] = node.commands("start_build")
    await heart.server.images.finished(platform_pb2.BuildFinished(build_id=command.build_id, ok=True, layers=["layer"]))


def test_a_build_waits_for_a_node_that_is_being_restarted_and_says_so(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        image_id = await ask(heart)
        await heart.server.database.write(lambda connection: None)  # what was written before is there
        said, results = await watch(heart, image_id, timeout_s=0.0)
        assert "The build waits: no node is connected" in said and not results, (said, results)
        watching = asyncio.ensure_future(watch(heart, image_id))
        node = FakeNode(heart)
        await node.connect()
        await finish(heart, node)
        assert (await watching)[1] == [api_pb2.GenericResult.GENERIC_STATUS_SUCCESS]

    beat(tmp_path, scenario)


def test_whoever_watches_a_build_waits_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        image_id = await ask(heart)
        assert node.commands("start_build")
        await heart.restart()
        watching = asyncio.ensure_future(watch(heart, image_id))
        assert (await watch(heart, image_id, timeout_s=0.05))[1] == []
        await node.connect()
        await finish(heart, node)
        assert (await watching)[1] == [api_pb2.GenericResult.GENERIC_STATUS_SUCCESS]

    beat(tmp_path, scenario)
