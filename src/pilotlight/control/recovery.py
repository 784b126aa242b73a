"""What becomes of leased inputs and running containers when the server or a node was away.

After a start of the server, inputs without an output are held back until the nodes that had containers have said what they still
hold, or a grace is over. A node that stays away longer than the grace has lost its containers, and their inputs go to others.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import structlog
from modal_proto import api_pb2

from pilotlight.control.apps import Apps
from pilotlight.control.calls import Calls
from pilotlight.control.images import Images
from pilotlight.control.live import LiveInput
from pilotlight.control.nodes import Nodes, NodeSession
from pilotlight.control.pools import Pools
from pilotlight.control.tasks import Tasks
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

Result = api_pb2.GenericResult

NODE_GRACE_S = 10.0


class Recovery:
    """The one place that knows who has been away. Lives on the event loop's thread."""

    def __init__(self, *, apps: Apps, calls: Calls, tasks: Tasks, pools: Pools, nodes: Nodes, images: Images) -> None:
        self._apps = apps
        self._calls = calls
        self._tasks = tasks
        self._pools = pools
        self._nodes = nodes
        self._images = images
        self._waiting: dict[str, LiveInput] = {}
        self._awaited: dict[str, asyncio.TimerHandle] = {}  # nodes that may come back
        self._losing: set[asyncio.Task[None]] = set()
        self.complete = asyncio.Event()  # after a start: all nodes that had containers have said what they kept, or were given up

    @property
    def is_settled(self) -> bool:
        """Whether all nodes that had containers are here, or were given up."""
        return not self._awaited

    async def restore(self) -> None:
        """Rebuild the live state from the rows, and wait for the nodes that had containers."""
        await self._tasks.restore()
        restored = await self._calls.restore()
        await self._end_stopped([item for item in restored if item.call.pool.closed])
        self._waiting = {item.input_id: item for item in restored if not item.call.pool.closed}
        for node_id in {task.node_id for task in self._tasks.all()}:
            self._await_node(node_id)
        log.info("state_restored", inputs=len(self._waiting), tasks=len(self._tasks.all()), awaited_nodes=len(self._awaited))
        self._release_if_complete()

    async def _end_stopped(self, items: Sequence[LiveInput]) -> None:
        """The server went away between the end of an app and that of its calls: they end now, in the same words."""
        by_app: dict[str, list[LiveInput]] = defaultdict(list)
        for item in items:
            item.call.cancelled = True
            by_app[item.call.pool.function.app_id].append(item)
        for app_id, inputs in by_app.items():
            why = await self._apps.why_stopped(app_id)
            await self._calls.fail(inputs, Result(status=Result.GENERIC_STATUS_TERMINATED, exception=why))

    async def join(self, session: NodeSession, held: Sequence[platform_pb2.HeldTask]) -> list[str]:
        """A node is (back) here: compare what it holds with what we think it does; returns tasks of its that it shall end."""
        if (timer := self._awaited.pop(session.node_id, None)) is not None:
            timer.cancel()
        unknown = self._tasks.adopt(session.node_id, held, self._waiting, session.web_address)
        await self._take_back_undelivered(held)
        # From here on its containers may be handed inputs, those of the lost ones first.
        self._nodes.add(session)
        await self._tasks.lose(session.node_id, [kept.task_id for kept in held])
        self._tasks.repeat_commands(session.node_id)
        self._release_if_complete()
        for pool in self._pools:
            self._pools.pump(pool)
        await self._images.node_joined()
        return unknown

    async def leave(self, session: NodeSession) -> None:
        """A node's stream has ended. It keeps its containers if it is back within the grace."""
        if self._nodes.remove(session):
            await self._images.node_lost(session.node_id)
            self._await_node(session.node_id)

    async def _take_back_undelivered(self, held: Sequence[platform_pb2.HeldTask]) -> None:
        """Inputs that we sent to a task of this node and that never arrived there."""
        for kept in held:
            task = self._tasks.get(kept.task_id)
            if task is None:
                continue
            arrived = {entry.input_id for entry in kept.inputs}
            await self._tasks.take_back(task, [item for input_id, item in task.held.items() if input_id not in arrived])

    def _await_node(self, node_id: str) -> None:
        self._awaited[node_id] = asyncio.get_running_loop().call_later(NODE_GRACE_S, self._give_up, node_id)

    def _give_up(self, node_id: str) -> None:
        self._awaited.pop(node_id, None)
        losing = asyncio.get_running_loop().create_task(self._lose(node_id))
        self._losing.add(losing)
        losing.add_done_callback(self._losing.discard)

    async def _lose(self, node_id: str) -> None:
        log.warning("node_given_up", node_id=node_id)
        await self._tasks.lose(node_id, [])
        self._release_if_complete()

    def _release_if_complete(self) -> None:
        """Queue what nobody holds, once all who might hold something have spoken."""
        if self._awaited:
            return
        self.complete.set()
        waiting, self._waiting = self._waiting, {}
        for item in waiting.values():
            if not item.call.cancelled:
                item.call.pool.queue.append(item)
        for pool in {item.call.pool for item in waiting.values()}:
            self._pools.pump(pool)
            self._pools.touch(pool)
