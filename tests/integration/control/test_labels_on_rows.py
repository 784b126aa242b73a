"""Functions that ask for a region, over nodes that say where they are, and nodes that do not."""

from pathlib import Path

from heart import ASYNC, FakeNode, Heart, beat
from modal_proto import api_pb2
from test_scaling_on_rows import Scaler

US = api_pb2.SchedulerPlacement(regions=["us"])


def test_a_region_that_no_node_is_in_is_waited_for_and_named(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        node.session.labels = {"region": "eu-west"}
        scaler = Scaler(heart, node)
        there, anywhere = await heart.define("there", scheduler_placement=US), await heart.define("anywhere")
        await heart.call(there, key="1", invocation=ASYNC)
        await heart.call(anywhere, key="2", invocation=ASYNC)
        assert await scaler.run() == ["anywhere"]
        [waiting] = [entry for entry in heart.server.overview.document()["waiting"] if entry["function"] == "there"]
        assert waiting["why"] == "needs region=us, this platform has eu-west"
        american = FakeNode(heart, "no-2")
        await american.connect()
        american.session.labels = {"region": "us-east-1"}
        await Scaler(heart, american).run()
        assert [task.node_id for task in scaler.of("there")] == ["no-2"]
        assert [node["labels"] for node in heart.server.overview.document()["nodes"]] == ["region=eu-west", "region=us-east-1"]

    beat(tmp_path, scenario)


def test_a_machine_of_which_nothing_was_said_runs_them_all(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        far = api_pb2.SchedulerPlacement(regions=["ap-northeast"], nonpreemptible=True)
        function_id = await heart.define("far", scheduler_placement=far, cloud_provider_str="gcp")
        await heart.call(function_id, invocation=ASYNC)
        assert await Scaler(heart, node).run() == ["far"]

    beat(tmp_path, scenario)
