"""Images: each definition is built once, whoever asks and however often, and whoever waits sees the log from its beginning.

An image's id is the hash of its definition, so the same definition is the same image across apps, clients and restarts.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from modal_proto import api_pb2
from sqlalchemy import Connection, Row

from pilotlight.control.build_placement import add_gpus, place_build
from pilotlight.control.mounts import Mounts
from pilotlight.control.nodes import Nodes
from pilotlight.control.secrets import Secrets
from pilotlight.control.volume_mounts import checked_mounts, look_up_mounts
from pilotlight.core import errors, ids
from pilotlight.core.gpus import GpuWish
from pilotlight.core.gpus import wish as gpu_wish
from pilotlight.core.images import ImageState
from pilotlight.core.placement import Unplaced
from pilotlight.store import garbage
from pilotlight.store import images as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

Result = api_pb2.GenericResult

BUILD_TIMEOUT_S = 3600
LOG_LINES_PER_REPLY = 500
USE_NOTED_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """What a container needs of an image."""

    image_id: str
    layers: Sequence[str]
    config: platform_pb2.ImageConfig
    builder_version: str
    metadata: api_pb2.ImageMetadata


@dataclass(slots=True, eq=False)
class Build:
    """An image that is being built right now."""

    image_id: str
    node_id: str = ""
    next_seq: int = 1
    step: str = ""
    why_waiting: str = ""  # for a node, or for GPUs
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Let all who wait look again."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class Images:
    """Use cases of images. Lives on the event loop's thread."""

    def __init__(
        self,
        *,
        database: Database,
        nodes: Nodes,
        mounts: Mounts,
        secrets: Secrets,
        default_builder_version: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._mounts = mounts
        self._secrets = secrets
        self._default_builder_version = default_builder_version
        self._now = now
        self._built: dict[str, BuiltImage] = {}
        self._builds: dict[str, Build] = {}
        self._starting: set[asyncio.Task[None]] = set()
        nodes.gpus.on_free.append(self.gpus_free)

    async def restore(self) -> None:
        """Know again, after a restart, what was being built: who watches that waits on, until a node has it again."""
        for row in await self._database.read(store.unfinished_images):
            self._builds[row.image_id] = Build(row.image_id)

    @property
    def builds(self) -> list[Build]:
        return list(self._builds.values())

    async def get_or_create(self, request: api_pb2.ImageGetOrCreateRequest, client_version: str, key: str) -> Row[*tuple[Any, ...]]:
        """The image of a definition; its build is started if it is not there yet."""
        image = request.image
        _refuse_unbuilt(image)
        checked_mounts(image.volume_mounts, "The image")
        gpu_wish(image.gpu_config.gpu_type, image.gpu_config.count)  # refuses what no container can have
        builder_version = request.builder_version or self._default_builder_version
        image_id = await self._id_of(image, builder_version, key if request.force_build or request.ignore_cache else "")
        row = {
            "image_id": image_id,
            "definition": image.SerializeToString(),
            "builder_version": builder_version,
            "client_version": client_version,
            "state": ImageState.WAITING.value,
            "layers": [],
            "config": b"",
            "metadata": b"",
            "created_at": self._now(),
        }
        await self._database.write(lambda connection: self._insert(connection, row))
        found = await self.row(image_id)
        if ImageState(found.state) is not ImageState.BUILT and image_id not in self._builds:
            await self._start(found, ignore_cache=request.force_build or request.ignore_cache)
        return found

    def _insert(self, connection: Connection, row: dict[str, Any]) -> None:
        store.insert_image(connection, row)
        at = self._now()
        garbage.set_image_used(connection, row["image_id"], at, at - USE_NOTED_EVERY_S)

    async def remove(self, image_id: str, alongside: Callable[[Connection], None]) -> None:
        """Forget an image, with what `alongside` forgets of it. Raises NotFound, or WrongState while it is being built."""
        await self.row(image_id)
        if image_id in self._builds:
            raise errors.WrongState(f"Image {image_id} is being built. Delete it when that is done.")

        def apply(connection: Connection) -> None:
            alongside(connection)
            store.remove_image(connection, image_id)

        await self._database.write(apply)
        self._built.pop(image_id, None)
        log.info("image_removed", image_id=image_id)

    async def remove_unused(self, image_ids: Sequence[str], used_before: float) -> int:
        """Forget images that nothing refers to, unless somebody asked for them since; how many. Their layers are the nodes'."""
        candidates = [image_id for image_id in image_ids if image_id not in self._builds]
        removed = await self._database.write(lambda connection: garbage.remove_images(connection, candidates, used_before))
        for image_id in removed:
            self._built.pop(image_id, None)
        return len(removed)

    async def _id_of(self, image: api_pb2.Image, builder_version: str, salt: str) -> str:
        content_hash = (await self._mounts.get(image.context_mount_id)).content_hash if image.context_mount_id else ""
        parts = [builder_version, content_hash, salt, *image.dockerfile_commands]
        parts += [f"base {base.docker_tag} {base.image_id}" for base in image.base_images]
        parts += [f"file {item.filename} {hashlib.sha256(item.data).hexdigest()}" for item in image.context_files]
        parts += [f"secret {secret_id}" for secret_id in sorted(image.secret_ids)]
        parts += [f"volume {mount.mount_path} {mount.volume_id} {mount.sub_path}" for mount in image.volume_mounts]
        parts += [f"argument {name}={value}" for name, value in sorted(image.build_args.items())]
        if image.gpu_config.gpu_type:
            parts.append(f"gpu {image.gpu_config.gpu_type}:{image.gpu_config.count}")
        return ids.derived(ids.IMAGE, *parts)

    async def row(self, image_id: str) -> Row[*tuple[Any, ...]]:
        """The row of an image. Raises NotFound, in the words that the SDKs look for."""
        row = await self._database.read(lambda connection: store.image_row(connection, image_id))
        if row is None:
            raise errors.NotFound(f"Could not find image with ID {image_id}")
        return row

    async def built(self, image_id: str) -> BuiltImage:
        """An image that containers can start from. Raises NotFound, or WrongState where it is not built."""
        if (known := self._built.get(image_id)) is not None:
            return known
        row = await self.row(image_id)
        if ImageState(row.state) is not ImageState.BUILT:
            raise errors.WrongState(f"Image {image_id} is not built ({row.state}): {row.error or 'its build has not finished'}")
        image = BuiltImage(
            image_id=image_id,
            layers=tuple(row.layers),
            config=platform_pb2.ImageConfig.FromString(row.config),
            builder_version=row.builder_version,
            metadata=api_pb2.ImageMetadata.FromString(row.metadata),
        )
        return self._built.setdefault(image_id, image)

    # ---- building ----

    async def _start(self, row: Row[*tuple[Any, ...]], *, ignore_cache: bool = False) -> None:
        build = self._builds.setdefault(row.image_id, Build(row.image_id))
        try:
            await self._database.write(lambda connection: store.clear_logs(connection, row.image_id))
            command = await self._command(row, ignore_cache=ignore_cache)
            node = place_build(self._nodes, row.image_id, _wish_of(row))
            if isinstance(node, Unplaced):
                self._say_why(build, node)
                return
            add_gpus(self._nodes.gpus, command)
        except errors.PilotlightError as error:
            await self._end(build, platform_pb2.BuildFinished(build_id=row.image_id, error=str(error)))
            return
        build.node_id = node.node_id
        await self._database.write(
            lambda connection: store.update_image(connection, row.image_id, state=ImageState.BUILDING.value, error=None)
        )
        node.send(platform_pb2.NodeCommand(start_build=command))
        log.info("build_sent", image_id=row.image_id, node_id=node.node_id)

    async def _command(self, row: Row[*tuple[Any, ...]], *, ignore_cache: bool) -> platform_pb2.StartBuild:
        image = api_pb2.Image.FromString(row.definition)
        bases: dict[str, platform_pb2.BaseImage] = {}
        for base in image.base_images:
            built = await self.built(base.image_id)
            bases[base.docker_tag] = platform_pb2.BaseImage(layers=built.layers, config=built.config)
        return platform_pb2.StartBuild(
            build_id=row.image_id,
            dockerfile_commands=image.dockerfile_commands,
            context_files={item.filename: item.data for item in image.context_files},
            context_mount=await self._mounts.get(image.context_mount_id) if image.context_mount_id else None,
            secrets=await self._secrets.environment_of(list(image.secret_ids)),
            build_args=image.build_args,
            builder_version=row.builder_version,
            client_version=row.client_version,
            registry_auth=await self._registry_auth(image),
            timeout_s=BUILD_TIMEOUT_S,
            ignore_cache=ignore_cache,
            named_bases=bases,
            volumes=await look_up_mounts(self._database, image.volume_mounts, f"Image {row.image_id}"),
        )

    async def _registry_auth(self, image: api_pb2.Image) -> platform_pb2.RegistryAuth | None:
        registry = image.image_registry_config
        if not registry.secret_id:
            return None
        if registry.registry_auth_type not in (api_pb2.REGISTRY_AUTH_TYPE_STATIC_CREDS, api_pb2.REGISTRY_AUTH_TYPE_UNSPECIFIED):
            kind = api_pb2.RegistryAuthType.Name(registry.registry_auth_type).removeprefix("REGISTRY_AUTH_TYPE_")
            raise errors.NotBuilt(
                f"Registry credentials of type {kind} are not built yet in Pilotlight. Use a user name and password."
            )
        variables = await self._secrets.environment_of([registry.secret_id])
        try:
            return platform_pb2.RegistryAuth(username=variables["REGISTRY_USERNAME"], password=variables["REGISTRY_PASSWORD"])
        except KeyError as missing:
            raise errors.InvalidInput(
                f"The registry secret lacks {missing}. It needs REGISTRY_USERNAME and REGISTRY_PASSWORD."
            ) from missing

    def progress(self, event: platform_pb2.BuildProgress) -> None:
        """A line of a build's output."""
        build = self._builds.get(event.build_id)
        if build is None:
            return
        row = {
            "image_id": event.build_id,
            "seq": build.next_seq,
            "file_descriptor": event.file_descriptor,
            "data": event.data,
            "at": event.at_ns / 1e9 or self._now(),
        }
        build.next_seq += 1
        if event.data.lstrip().startswith("=>"):
            build.step = event.data.strip().removeprefix("=> ")
        written = self._database.write(lambda connection: store.add_logs(connection, [row]))
        written.add_done_callback(lambda _: build.wake())

    def _say_why(self, build: Build, unplaced: Unplaced) -> None:
        """Tell whoever watches the build, once, what it waits for; it begins when GPUs become free, or with the next node."""
        if build.why_waiting != unplaced.why:
            build.why_waiting = unplaced.why
            line = platform_pb2.BuildProgress(build_id=build.image_id, file_descriptor=1, data=f"The build waits: {unplaced.why}\n")
            self.progress(line)

    def gpus_free(self) -> None:
        """Start builds that wait for GPUs."""
        if any(build.why_waiting and not build.node_id for build in self._builds.values()):
            starting = asyncio.get_running_loop().create_task(self.node_joined())
            self._starting.add(starting)
            starting.add_done_callback(self._starting.discard)

    async def finished(self, event: platform_pb2.BuildFinished) -> None:
        """A node is done with a build, for better or worse."""
        try:
            if (build := self._builds.get(event.build_id)) is not None:
                await self._end(build, event)
        finally:
            self._nodes.gpus.release(event.build_id)  # others begin then: were the build still known it would begin again

    async def _end(self, build: Build, event: platform_pb2.BuildFinished) -> None:
        metadata = api_pb2.ImageMetadata(python_packages=event.python_packages)
        if event.python_version:
            metadata.python_version_info = event.python_version
        if event.libc_version:
            metadata.libc_version_info = event.libc_version
        metadata.workdir = event.config.workdir
        state = ImageState.BUILT if event.ok else ImageState.FAILED
        values: dict[str, Any] = {
            "state": state.value,
            "error": event.error or None,
            "layers": list(event.layers),
            "config": event.config.SerializeToString(),
            "metadata": metadata.SerializeToString(),
            "finished_at": self._now(),
        }
        await self._database.write(lambda connection: store.update_image(connection, build.image_id, **values))
        self._builds.pop(build.image_id, None)
        build.wake()
        log.info("build_finished", image_id=build.image_id, ok=event.ok, error=event.error)

    async def node_lost(self, node_id: str) -> None:
        """Builds of a node that went away begin again as soon as there is a node."""
        for build in [build for build in self._builds.values() if build.node_id == node_id]:
            build.node_id = ""

    async def node_joined(self) -> None:
        """Send out the builds that have no node: those of a lost one, and those that a restart found unfinished."""
        for row in await self._database.read(store.unfinished_images):
            build = self._builds.get(row.image_id)
            if build is None or not build.node_id:
                await self._start(row)

    # ---- watching ----

    async def join(
        self, image_id: str, after_seq: int, timeout_s: float, *, include_finished_logs: bool
    ) -> AsyncGenerator[api_pb2.ImageJoinStreamingResponse]:
        """The log after the cursor and, at the end, the result; nothing more once the time-out is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        followed = image_id in self._builds or after_seq > 0 or include_finished_logs
        while True:
            build = self._builds.get(image_id)
            changed = build.changed if build is not None else None
            if followed:
                rows = await self._lines(image_id, after_seq)
                if rows:
                    after_seq = rows[-1].seq
                    yield _log_reply(rows)
                    continue
            if build is None or changed is None:
                yield await self._result_reply(image_id)
                return
            remaining_s = deadline - loop.time()
            if remaining_s <= 0:
                return
            try:
                await asyncio.wait_for(changed.wait(), remaining_s)
            except TimeoutError:
                return

    async def _lines(self, image_id: str, after_seq: int) -> Sequence[Row[*tuple[Any, ...]]]:
        return await self._database.read(lambda connection: store.logs_after(connection, image_id, after_seq, LOG_LINES_PER_REPLY))

    async def _result_reply(self, image_id: str) -> api_pb2.ImageJoinStreamingResponse:
        row = await self.row(image_id)
        return api_pb2.ImageJoinStreamingResponse(result=result_of(row), metadata=metadata_of(row), eof=True)


def result_of(row: Row[*tuple[Any, ...]]) -> api_pb2.GenericResult:
    """An image's state as a result; empty while it is being built."""
    state = ImageState(row.state)
    if state is ImageState.BUILT:
        return Result(status=Result.GENERIC_STATUS_SUCCESS)
    if state is ImageState.FAILED:
        return Result(status=Result.GENERIC_STATUS_FAILURE, exception=row.error or "the build failed")
    return Result()


def metadata_of(row: Row[*tuple[Any, ...]]) -> api_pb2.ImageMetadata:
    metadata = api_pb2.ImageMetadata.FromString(row.metadata)
    metadata.image_builder_version = row.builder_version
    return metadata


def _log_reply(rows: Sequence[Row[*tuple[Any, ...]]]) -> api_pb2.ImageJoinStreamingResponse:
    reply = api_pb2.ImageJoinStreamingResponse(entry_id=str(rows[-1].seq))
    for row in rows:
        reply.task_logs.add(data=row.data, file_descriptor=row.file_descriptor, timestamp=row.at)
    return reply


def _wish_of(row: Row[*tuple[Any, ...]]) -> GpuWish | None:
    config = api_pb2.Image.FromString(row.definition).gpu_config
    return gpu_wish(config.gpu_type, config.count)


def _refuse_unbuilt(image: api_pb2.Image) -> None:
    lacking = {
        "running a function while building (Image.run_function)": image.HasField("build_function"),
    }
    for feature, asked in lacking.items():
        if asked:
            raise errors.NotBuilt(
                f"This image uses {feature}, which is not built yet in Pilotlight. docs/compatibility.md lists what there is."
            )
