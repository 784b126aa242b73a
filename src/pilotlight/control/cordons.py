"""Nodes that are taken out of service and put back: `pilotlight node drain` and `undrain`.

A drained node takes nothing new, through restarts of server and node alike, until it is told to.
"""

import time
from collections.abc import Callable

import structlog

from pilotlight.control.nodes import Nodes, NodeSession
from pilotlight.control.pools import Pools
from pilotlight.control.tasks import Tasks
from pilotlight.core import errors
from pilotlight.store import cordons as store
from pilotlight.store.database import Database

log = structlog.get_logger()

DRAIN_GRACE_S = 30.0  # for the exit hooks of the containers of a node that is drained


class Cordons:
    """Which nodes take nothing new. Lives on the event loop's thread."""

    def __init__(
        self, *, database: Database, nodes: Nodes, tasks: Tasks, pools: Pools, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._tasks = tasks
        self._pools = pools
        self._now = now

    async def restore(self) -> None:
        """Read which nodes were drained; to be done before any node connects."""
        self._nodes.cordoned |= await self._database.read(store.all_nodes)

    async def drain(self, name: str) -> tuple[NodeSession, int]:
        """Have all containers of a node end within DRAIN_GRACE_S: what they work on is interrupted, their exit hooks run, and their
        inputs go to other nodes, or wait. Returns the node and how many containers were told. Safe to repeat.

        Raises NotFound, and InvalidInput where `name` (an id, a name, or empty for the only node) fits several.
        """
        node = self._find(name)
        await self._database.write(lambda connection: store.add(connection, node.node_id, self._now()))
        self._nodes.cordoned.add(node.node_id)
        self._tasks.occupancy.cordon_changed(node.node_id)
        here = [task for task in self._tasks.all() if task.node_id == node.node_id]
        log.info("node_drained", node_id=node.node_id, name=node.name, containers=len(here))
        for task in here:
            self._tasks.stop(task, "its node is drained", grace_s=DRAIN_GRACE_S)
            self._pools.touch(task.pool)
        return node, len(here)

    async def undrain(self, name: str) -> NodeSession:
        """Let a node take containers again. Safe to repeat; errors as for `drain`."""
        node = self._find(name)
        await self._database.write(lambda connection: store.remove(connection, node.node_id))
        self._nodes.cordoned.discard(node.node_id)
        self._tasks.occupancy.cordon_changed(node.node_id)
        log.info("node_undrained", node_id=node.node_id, name=node.name)
        for pool in self._pools:
            self._pools.touch(pool)
        return node

    def _find(self, name: str) -> NodeSession:
        nodes = self._nodes.all()
        found = [node for node in nodes if not name or name in (node.node_id, node.name)]
        if len(found) == 1:
            return found[0]
        known = ", ".join(f"{node.name} ({node.node_id})" for node in nodes) or "none"
        if not found:
            raise errors.NotFound(f"There is no connected node {name!r}. Connected: {known}." if name else "No node is connected.")
        raise errors.InvalidInput(f"{'Several nodes have that name' if name else 'Name the node'}: {known}. Give an id.")
