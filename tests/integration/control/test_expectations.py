"""Nodes hear of published functions before anybody calls them."""

from pathlib import Path

from heart import IMAGE_ID, FakeNode, Heart, beat
from modal_proto import api_pb2


def test_a_publication_tells_nodes_of_each_image_once_and_of_no_secret(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(mount_client_dependencies=True)
        [told] = node.commands("expect_task")
        assert (told.like.image_id, told.like.image_builder_version) == (IMAGE_ID, "2025.06")
        assert (told.like.client_version, told.like.mount_client_dependencies) == ("1.6.4", True)
        assert not (told.like.task_id or told.like.arguments or told.like.secrets)
        started = await node.start(function_id)
        [start] = node.commands("start_task")
        assert (start.environment_name, start.task_id) == (told.like.environment_name, started.task_id)

    beat(tmp_path, scenario)


def test_functions_with_gpus_and_drained_nodes_expect_nothing(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        await heart.define("g", resources=api_pb2.Resources(gpu_config=api_pb2.GPUConfig(gpu_type="L4", count=1)))
        heart.server.nodes.cordoned.add("no-1")
        await heart.define("f")
        assert not node.commands("expect_task")

    beat(tmp_path, scenario)


def test_an_image_that_is_not_there_spoils_no_publication(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        heart.server.images._built.clear()
        await heart.server.database.write(lambda connection: connection.exec_driver_sql("UPDATE images SET state = 'failed'"))
        await heart.redefine("f", function_id)
        assert len(node.commands("expect_task")) == 1

    beat(tmp_path, scenario)
