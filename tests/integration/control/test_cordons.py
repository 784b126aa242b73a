"""Nodes that are taken out of service and put back."""

from pathlib import Path

import pytest
from heart import FakeNode, Heart, beat

from pilotlight.control.cordons import DRAIN_GRACE_S
from pilotlight.core import errors
from pilotlight.core.placement import Need, Placed, Unplaced, place
from pilotlight.core.tasks import TaskState

SMALL = Need(125, 128)


def test_a_drained_node_ends_its_containers_and_takes_nothing_new(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id)
        drained, containers = await heart.server.cordons.drain("")
        assert (drained.node_id, containers) == (node.node_id, 1)
        [command] = node.commands("stop_task")
        assert (command.task_id, command.grace_ms) == (task.task_id, DRAIN_GRACE_S * 1000)
        await node.exit(task, exit_code=0, reason="stopped")
        assert list(task.pool.queue) == list(call.unfinished.values())  # waits, and its death is nobody's fault
        assert call.unfinished[0].deaths == 0
        unplaced = place(heart.server.tasks.occupancy.views(), SMALL)
        assert isinstance(unplaced, Unplaced) and "drained" in unplaced.why and not unplaced.never
        assert [entry["state"] for entry in heart.server.overview.document()["nodes"]] == ["drained"]
        await heart.server.cordons.undrain(node.node_id)
        assert place(heart.server.tasks.occupancy.views(), SMALL) == Placed(node.node_id)
        assert task.pool in heart.server.pools.dirty

    beat(tmp_path, scenario)


def test_a_node_stays_drained_through_restarts_of_both(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        await heart.server.cordons.drain(node.node_id)
        await heart.server.cordons.drain(node.node_id)
        await heart.restart()
        await node.connect()
        assert isinstance(place(heart.server.tasks.occupancy.views(), SMALL), Unplaced)
        with pytest.raises(errors.Busy, match="undrain"):
            heart.server.nodes.any()
        await heart.server.cordons.undrain(node.node_id)
        await heart.restart()
        await node.connect()
        assert place(heart.server.tasks.occupancy.views(), SMALL) == Placed(node.node_id)

    beat(tmp_path, scenario)


def test_a_container_that_is_being_sent_never_starts_on_a_drained_node(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        task = heart.server.tasks.reserve(await heart.pool(await heart.define()), Placed(node.node_id))
        await heart.server.cordons.drain("")
        await heart.server.tasks.start(task)
        assert task.state is TaskState.FINISHED and not node.commands("start_task")

    beat(tmp_path, scenario)


def test_which_node_is_meant_has_to_be_said_where_there_are_several(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        with pytest.raises(errors.NotFound):
            await heart.server.cordons.drain("")
        for name in ("no-1", "no-2"):
            await FakeNode(heart, name).connect()
        with pytest.raises(errors.InvalidInput, match=r"no-1.*no-2"):
            await heart.server.cordons.drain("")
        with pytest.raises(errors.NotFound, match="no-3"):
            await heart.server.cordons.undrain("no-3")

    beat(tmp_path, scenario)
