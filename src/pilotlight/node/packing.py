"""What a task's container is made of: the image, the client, the user's mounts, in this order, and the process over them.

Invariant: an image is never changed for a task; what the platform adds lies over it (client, mounts) or under it (directories that
every container has).
"""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pilotlight.config import Settings
from pilotlight.core.containers import Bind, ContainerSpec, Recipe
from pilotlight.core.errors import InvalidInput
from pilotlight.images.bytecode import Bytecode
from pilotlight.images.clients import ClientPackages
from pilotlight.images.layers import LayerStore
from pilotlight.images.mounts import Mounts
from pilotlight.images.probe import find_python
from pilotlight.images.stages import state_of
from pilotlight.images.steps import DEFAULT_PATH
from pilotlight.images.surroundings import Surroundings
from pilotlight.wire import platform_pb2

GUEST_DIR = "/__pilotlight"
GUEST_SOCKET = f"{GUEST_DIR}/gateway.sock"
GUEST_ARGUMENTS = f"{GUEST_DIR}/arguments"
HOME = "/root"
CLIENT_PATHS = f"{HOME}:/pkg"
ENTRYPOINT_MODULE = "modal._container_entrypoint"
# Under every image: what programs expect and a bare image may lack. Name and mode.
FOUNDATION = (("root", 0o700), ("tmp", 0o1777))


@dataclass(frozen=True)
class Packed:
    """The root file system of a task: directories lowest first, and the path of the Python in it.

    `shared` are those of them that every function of the image has.
    """

    layers: tuple[Path, ...]
    python: str
    shared: tuple[Path, ...] = ()


class Packer(Protocol):
    """Finds or makes what a task's root file system consists of."""

    async def pack(self, request: platform_pb2.StartTask) -> Packed:
        """Errors: a PilotlightError that names what is missing and what to do."""
        ...


class ImagePacker:
    """Root file systems from built images."""

    def __init__(self, settings: Settings, layers: LayerStore, mounts: Mounts, clients: ClientPackages, bytecode: Bytecode) -> None:
        self._foundation = settings.node_dir / "foundation"
        self._layers = layers
        self._mounts = mounts
        self._clients = clients
        self._bytecode = bytecode
        self._pythons: dict[tuple[str, ...], str] = {}

    async def pack(self, request: platform_pb2.StartTask) -> Packed:
        """The layers of a task; errors: NotFound for a layer, a mount's file or a client that can't be had, InvalidInput."""
        image = self._layers.paths(request.layers)
        clients = await self._client_layers(request)
        mounts = [await self._mounts.layer(mount) for mount in request.mounts]
        shared = (self._make_foundation(), *image, *clients)
        compiled = (bytecode,) if (bytecode := self._bytecode.layer(request)) is not None else ()
        return Packed((*shared, *mounts, *compiled), self._python(request, image), shared)

    async def _client_layers(self, request: platform_pb2.StartTask) -> tuple[Path, ...]:
        builder = request.image_builder_version if request.mount_client_dependencies else ""
        return await self._clients.layers_for(request.client_version, builder, request.layers, request.image_config)

    def _python(self, request: platform_pb2.StartTask, image: tuple[Path, ...]) -> str:
        key = tuple(request.layers)
        if key not in self._pythons:
            python = find_python(image, dict(state_of((), request.image_config).env))
            if not python:
                raise InvalidInput(
                    f"Image {request.image_id} has no Python on its PATH, so no function can run in it. "
                    "Add one: add_python= of from_registry or from_dockerfile."
                )
            self._pythons[key] = python
        return self._pythons[key]

    def _make_foundation(self) -> Path:
        for name, mode in FOUNDATION:
            directory = self._foundation / name
            if not directory.is_dir() or stat.S_IMODE(directory.stat().st_mode) != mode:
                directory.mkdir(parents=True, exist_ok=True)
                directory.chmod(mode)
        self._foundation.chmod(0o755)
        return self._foundation


def spec_of(
    request: platform_pb2.StartTask, packed: Packed, socket: Path, arguments: Path, surroundings: Surroundings, edge_host: str
) -> ContainerSpec:
    """The container of a task; `socket` and `arguments` are files of this machine."""
    config = request.image_config
    return ContainerSpec(
        container_id=request.task_id,
        layers=packed.layers,
        args=(*config.entrypoint, *_program(packed)),
        env=environment_of(request, surroundings, edge_host),
        cwd=config.workdir or HOME,
        binds=(Bind(socket, GUEST_SOCKET), Bind(arguments, GUEST_ARGUMENTS), *surroundings.container_binds()),
        milli_cpu=request.milli_cpu,
        milli_cpu_limit=request.milli_cpu_limit,
        memory_limit_mib=request.memory_limit_mib,
        memory_request_mib=request.memory_mib,
        disk_limit_mib=request.ephemeral_disk_mib,
        block_network=request.block_network,
        gpus=tuple(request.gpu_uuids),
        recipe=recipe_of(request, packed, surroundings, edge_host),
    )


def recipe_of(request: platform_pb2.StartTask, packed: Packed, surroundings: Surroundings, edge_host: str) -> Recipe | None:
    """Of a template from which the task's container may be forked; None where it can't be."""
    if not packed.shared or request.image_config.entrypoint or _changes_packages(request):
        return None
    env = shared_environment_of(request, surroundings, edge_host)
    return Recipe(packed.shared, _program(packed), env, name=request.image_id)


def _program(packed: Packed) -> tuple[str, ...]:
    return (packed.python, "-m", ENTRYPOINT_MODULE)


def _changes_packages(request: platform_pb2.StartTask) -> bool:
    """Whether what is mounted lies among installed packages, of which a template has imported the image's."""
    paths = [entry.path for mount in request.mounts for entry in mount.files]
    paths += [f"{mount.mount_path}/" for mount in (*request.volumes, *request.buckets)]
    return any(f"{kind}-packages/" in path for path in paths for kind in ("site", "dist"))


def environment_of(request: platform_pb2.StartTask, surroundings: Surroundings, edge_host: str) -> dict[str, str]:
    """The environment of a task's process: the operator's, the image's, ours, the user's secrets; later ones win."""
    env = shared_environment_of(request, surroundings, edge_host)
    env |= {"MODAL_TASK_ID": request.task_id, "MODAL_IMAGE_ID": request.image_id, **request.secrets}
    if "PYTHONPATH" in request.secrets:
        env["PYTHONPATH"] = _python_path(request.secrets["PYTHONPATH"])
    return env


def shared_environment_of(request: platform_pb2.StartTask, surroundings: Surroundings, edge_host: str) -> dict[str, str]:
    """That part of it which all tasks of an image and an environment have: no secret, nothing of one function."""
    env = {"PATH": DEFAULT_PATH, "HOME": HOME, **_operator_environment(surroundings, edge_host)}
    for entry in request.image_config.env:
        name, _, value = entry.partition("=")
        env[name] = value
    return env | {
        "MODAL_CONTAINER_ARGUMENTS_PATH": GUEST_ARGUMENTS,
        "MODAL_SERVER_URL": f"unix://{GUEST_SOCKET}",
        "MODAL_ENVIRONMENT": request.environment_name,
        "MODAL_IS_REMOTE": "1",
        "MODAL_DISABLE_API_PROXY": "1",  # the gateway and the edge are on this machine
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": _python_path(env.get("PYTHONPATH", "")),
    }


def _python_path(own_paths: str) -> str:
    # Whatever the user wants on the path, without the client's the container could not start.
    return f"{CLIENT_PATHS}:{own_paths}" if own_paths else CLIENT_PATHS


def _operator_environment(surroundings: Surroundings, edge_host: str) -> dict[str, str]:
    env = surroundings.container_env()
    proxied = any(name.upper().endswith("_PROXY") and name.upper() != "NO_PROXY" for name in env)
    if proxied:
        near = ",".join(filter(None, (env.get("NO_PROXY") or env.get("no_proxy"), "localhost", "127.0.0.1", edge_host)))
        env |= {"NO_PROXY": near, "no_proxy": near}
    return env
