"""What nodes may make ahead of the first call: they are told of the images and clients of functions that were just published.

Owns one invariant: publishing depends on none of it. A node that was not told, or that has no use for it, starts slower once.
"""

from collections.abc import Iterator

import structlog
from modal_proto import api_pb2

from pilotlight.control.apps import AppRecord, Apps
from pilotlight.control.functions import FunctionRecord, Functions
from pilotlight.control.images import Images
from pilotlight.control.mounts import Mounts
from pilotlight.control.nodes import Nodes
from pilotlight.core.errors import PilotlightError
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

MOST_KINDS = 64  # of one app: images, each with a client and what is mounted


class Expectations:
    """Tells nodes which containers may come."""

    def __init__(self, *, apps: Apps, functions: Functions, images: Images, mounts: Mounts, nodes: Nodes) -> None:
        self._apps = apps
        self._functions = functions
        self._images = images
        self._mounts = mounts
        self._nodes = nodes

    async def follow(self, app: AppRecord) -> None:
        """An app was published: its functions may be called any moment."""
        nodes = [node for node in self._nodes.all() if node.node_id not in self._nodes.cordoned]
        if not nodes:
            return
        function_ids, _ = await self._apps.members(app.app_id)
        records = [await self._functions.get(function_id) for function_id in function_ids.values()]
        for record in _one_of_each_kind(records):
            try:
                like = await self._like(record, app)
            except PilotlightError as error:  # whoever calls it will hear
                log.info("function_not_expected", function_id=record.function_id, error=str(error))
                continue
            for node in nodes:
                node.send_along(platform_pb2.NodeCommand(expect_task=platform_pb2.ExpectTask(like=like)))

    async def _like(self, record: FunctionRecord, app: AppRecord) -> platform_pb2.StartTask:
        image = await self._images.built(record.definition.image_id)
        # What runs once is not worth the work of compiling it beside its first container.
        mount_ids = () if app.is_run else record.definition.mount_ids
        return platform_pb2.StartTask(
            layers=image.layers,
            image_config=image.config,
            image_id=record.definition.image_id,
            mounts=[await self._mounts.get(mount_id) for mount_id in mount_ids],
            client_version=record.client_version,
            image_builder_version=image.builder_version,
            mount_client_dependencies=record.definition.mount_client_dependencies,
            environment_name=app.environment_name,
        )


def _one_of_each_kind(records: list[FunctionRecord]) -> Iterator[FunctionRecord]:
    """Functions that differ in what is made ahead; without those with GPUs, whose devices an OCI runtime's hooks make."""
    seen: set[tuple[object, ...]] = set()
    for record in records:
        definition = record.definition
        kind = (definition.image_id, record.client_version, definition.mount_client_dependencies, *definition.mount_ids)
        if kind not in seen and not _has_gpu(definition.resources) and len(seen) < MOST_KINDS:
            seen.add(kind)
            yield record


def _has_gpu(resources: api_pb2.Resources) -> bool:
    return bool(resources.gpu_config.gpu_type or resources.gpu_config.count)
