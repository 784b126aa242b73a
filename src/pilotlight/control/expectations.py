"""What nodes may make ahead of the first call: they are told of the images and clients of functions that were just published.

Owns one invariant: publishing depends on none of it, and does not wait for it. A node that was not told starts slower once.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from pilotlight.control.apps import AppRecord, Apps
from pilotlight.control.functions import FunctionRecord, Functions
from pilotlight.control.images import Images
from pilotlight.control.mounts import Mounts
from pilotlight.control.needs import needs_of
from pilotlight.control.nodes import Nodes
from pilotlight.control.occupancy import Occupancy
from pilotlight.core.errors import PilotlightError
from pilotlight.core.placement import NodeView
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

MOST_KINDS = 64  # of one app: images, each with a client and what is mounted
# Of what is said of one app's mounts: starts of containers wait behind it. The rest is told without mounts.
MOST_MOUNT_BYTES = 4 << 20
MOST_UNSENT_BYTES = 8 << 20  # that wait for one node; what is more it is not told


@dataclass(frozen=True)
class _Kind:
    """Functions that differ in nothing that is made ahead: one of them, and the nodes that could run any of them."""

    record: FunctionRecord
    node_ids: set[str] = field(default_factory=set[str])


class Expectations:
    """Tells nodes which containers may come."""

    def __init__(
        self, *, apps: Apps, functions: Functions, images: Images, mounts: Mounts, nodes: Nodes, occupancy: Occupancy
    ) -> None:
        self._apps = apps
        self._functions = functions
        self._images = images
        self._mounts = mounts
        self._nodes = nodes
        self._occupancy = occupancy
        self._published: dict[str, AppRecord] = {}
        self._telling: asyncio.Task[None] | None = None

    async def follow(self, app: AppRecord) -> None:
        """An app was published: its functions may be called any moment. Returns before anybody is told."""
        self._published[app.app_id] = app
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell_all())

    async def close(self) -> None:
        """Nobody is told of anything any more."""
        self._published.clear()
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    async def _tell_all(self) -> None:
        try:
            while self._published:
                app = self._published.pop(next(iter(self._published)))
                try:
                    await self._tell(app)
                except PilotlightError as error:  # it was stopped, or published anew
                    log.info("app_not_expected", app_id=app.app_id, error=str(error))
                except Exception as error:  # nobody else depends on it: the apps after this one least of all
                    log.error("nodes_not_told", app_id=app.app_id, exc_info=error)
        finally:
            self._telling = None

    async def _tell(self, app: AppRecord) -> None:
        mount_bytes_left = MOST_MOUNT_BYTES
        for kind in await self._kinds(app):
            # What runs once is not worth the work of compiling it beside its first container.
            mount_ids = () if app.is_run else kind.record.definition.mount_ids
            try:
                like = await self._like(kind.record, app)
                mounts = [await self._mounts.get(mount_id) for mount_id in mount_ids] if mount_bytes_left > 0 else []
            except PilotlightError as error:  # whoever calls it will hear
                log.info("function_not_expected", function_id=kind.record.function_id, error=str(error))
                continue
            mount_bytes_left -= sum(mount.ByteSize() for mount in mounts)
            if mount_bytes_left >= 0:
                like.mounts.extend(mounts)
            self._send(platform_pb2.NodeCommand(expect_task=platform_pb2.ExpectTask(like=like)), kind.node_ids)
            await asyncio.sleep(0)  # these may be large: others have their turn

    async def _kinds(self, app: AppRecord) -> list[_Kind]:
        """What to tell of an app; nothing of functions that only run on GPUs, whose devices an OCI runtime's hooks make."""
        function_ids, _ = await self._apps.members(app.app_id)
        views = {view.node_id: view for view in self._occupancy.views() if not view.cordoned}
        kinds: dict[tuple[object, ...], _Kind] = {}
        for function_id in list(function_ids.values()) if views else ():
            record = await self._functions.get(function_id)
            if not (node_ids := _could_run(record, views)):
                continue
            definition = record.definition
            mount_ids = () if app.is_run else tuple(definition.mount_ids)
            key = (definition.image_id, record.client_version, definition.mount_client_dependencies, mount_ids)
            if key in kinds or len(kinds) < MOST_KINDS:
                kinds.setdefault(key, _Kind(record)).node_ids.update(node_ids)
        return list(kinds.values())

    def _send(self, command: platform_pb2.NodeCommand, node_ids: set[str]) -> None:
        size_bytes = command.ByteSize()
        for node_id in node_ids:
            node = self._nodes.get(node_id)
            if node is None:
                continue
            unsent = sum(other.ByteSize() for other in node.outgoing if other.HasField("expect_task"))
            if unsent + size_bytes <= MOST_UNSENT_BYTES:
                node.send_along(command)

    async def _like(self, record: FunctionRecord, app: AppRecord) -> platform_pb2.StartTask:
        image = await self._images.built(record.definition.image_id)
        return platform_pb2.StartTask(
            layers=image.layers,
            image_config=image.config,
            image_id=record.definition.image_id,
            client_version=record.client_version,
            image_builder_version=image.builder_version,
            mount_client_dependencies=record.definition.mount_client_dependencies,
            environment_name=app.environment_name,
        )


def _could_run(record: FunctionRecord, views: Mapping[str, NodeView]) -> list[str]:
    """The nodes that could run it without a GPU, if they were empty."""
    needs = [need for need in needs_of(record) if need.gpu is None]
    return [node_id for node_id, view in views.items() if any(view.could_hold(need) for need in needs)]
