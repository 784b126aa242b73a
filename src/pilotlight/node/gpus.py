"""The GPUs of this machine, found or declared, and how a container comes to see those that it was given, and no other.

In order of preference: by a CDI specification; by the hook of NVIDIA's container toolkit. A declared inventory has no devices: its
containers get the environment alone. No rule of a device cgroup is needed: a container can make no device node, and sees none but
those that it was given.
"""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import structlog

from pilotlight.config import Settings
from pilotlight.core.containers import ContainerHandle, ContainerSpec, Hook, OnOutput
from pilotlight.core.errors import WrongState
from pilotlight.core.gpus import declared_devices, parse_inventory, parse_shares
from pilotlight.node import nvml
from pilotlight.node.cdi import Edits, Specs
from pilotlight.node.nvml import Found, OnProblem, Watch
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

HOOK = "nvidia-container-runtime-hook"
MANY_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONTAINER_T = TypeVar("CONTAINER_T", bound=ContainerHandle, covariant=True)


class Gpus:
    """What this machine has. `declared`: it was told so, and nothing is there to be shown."""

    def __init__(
        self,
        found: Sequence[Found] = (),
        *,
        declared: bool = False,
        library: Any | None = None,
        specs: Specs | None = None,
        hook: str | None = None,
    ) -> None:
        self.found = list(found)
        self._library = library
        self.declared = declared
        self._by_uuid = {one.device.uuid: one for one in found}
        self._specs = specs or Specs()
        self._hook = hook if hook is not None else shutil.which(HOOK, path=MANY_PATHS) or ""
        self._problems: dict[str, str] = {}
        self._watch: Watch | None = None

    @classmethod
    def open(cls, settings: Settings, node_id: str, library: Any | None = None) -> "Gpus":
        """Those that the settings declare, else those that the driver knows (`library` stands in for it). Raises InvalidInput."""
        shares = parse_shares(settings.gpu_share)
        if settings.gpus:
            devices = declared_devices(parse_inventory(settings.gpus), shares, node_id)
            return cls([Found(device) for device in devices], declared=True)
        if library is None:
            library, why_not = nvml.load()
            if why_not:
                log.error("gpus_not_found", cause=why_not, effect="this node offers none")
        if library is None:
            return cls()
        return cls(nvml.shared(nvml.discover(library), shares), library=library)

    def watch(self, on_problem: OnProblem) -> None:
        """Report errors of devices from now on, on another thread."""
        if self._library is not None and self.found:
            self._watch = Watch(self._library, self.found, on_problem)
            self._watch.start()

    def close(self) -> None:
        """Stop watching; blocks for a moment."""
        if self._watch is not None:
            self._watch.stop()

    def fail(self, uuid: str, problem: str) -> bool:
        """Note that a device does not work; False if that is known, or there is no such device."""
        if uuid not in self._by_uuid or uuid in self._problems:
            return False
        self._problems[uuid] = problem
        return True

    def told(self) -> list[platform_pb2.GpuDevice]:
        """What the server is to know of them."""
        return [
            platform_pb2.GpuDevice(
                uuid=one.device.uuid,
                kind=one.device.kind,
                memory_mib=one.device.memory_mib,
                shares=one.device.shares,
                problem=self._problems.get(one.device.uuid, ""),
            )
            for one in self.found
        ]

    def given(self, spec: ContainerSpec) -> ContainerSpec:
        """The container with the GPUs that it names. Reads files. Raises WrongState where they can't be shown to it."""
        if not spec.gpus:
            return spec
        unknown = [uuid for uuid in spec.gpus if uuid not in self._by_uuid]
        if unknown:
            raise WrongState(f"This machine has no GPU {', '.join(unknown)} (any more); `nvidia-smi -L` lists those it has.")
        found = [self._by_uuid[uuid] for uuid in spec.gpus]
        uuids = ",".join(spec.gpus)
        edits = self._edits(found, spec)
        facts = {
            "CUDA_VISIBLE_DEVICES": uuids,
            "MODAL_GPU_TYPE": found[0].device.kind,
            "MODAL_GPU_COUNT": str(len(found)),
        }
        return replace(
            spec, env={**spec.env, **edits.env, **facts}, binds=(*spec.binds, *edits.binds), hooks=(*spec.hooks, *edits.hooks)
        )

    def _edits(self, found: Sequence[Found], spec: ContainerSpec) -> Edits:
        uuids = ",".join(one.device.uuid for one in found)
        if self.declared:
            return Edits({"NVIDIA_VISIBLE_DEVICES": uuids})
        edits = self._specs.edits([(one.device.uuid, one.index) for one in found])
        if edits is not None:
            # What an image says here is for the hook, which would show all of them.
            return Edits({"NVIDIA_VISIBLE_DEVICES": "void"}) + edits
        if self._hook:
            capabilities = spec.env.get("NVIDIA_DRIVER_CAPABILITIES", "all")
            env = {"NVIDIA_VISIBLE_DEVICES": uuids, "NVIDIA_DRIVER_CAPABILITIES": capabilities}
            return Edits(env, hooks=(Hook("prestart", self._hook, (HOOK, "prestart")),))
        raise WrongState(
            f"No CDI specification of this machine names GPU {uuids}, and the container toolkit's hook is not installed. Make one: "
            "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; docs/gpus.md tells more."
        )


class _Starter(Protocol[CONTAINER_T]):
    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> CONTAINER_T: ...


class GpuRuntime(Generic[CONTAINER_T]):
    """A runtime whose containers see the GPUs that their specification names."""

    def __init__(self, runtime: _Starter[CONTAINER_T], gpus: Gpus) -> None:
        self._runtime = runtime
        self._gpus = gpus

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> CONTAINER_T:
        """As the runtime does; raises WrongState too where the GPUs can't be shown."""
        if spec.gpus:
            spec = await asyncio.to_thread(self._gpus.given, spec)
        return await self._runtime.start(spec, on_output)
