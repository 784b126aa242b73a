"""What is asked of a container runtime, and what it answers.

Invariant: builders of images and starters of tasks describe a container in the same words, and neither knows
how it comes to be.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

OnOutput = Callable[[int, bytes, int], None]
"""Called with (file descriptor 1 or 2, bytes as they came, nanoseconds since the epoch)."""


@dataclass(frozen=True)
class Bind:
    """A file or directory of the host that a container sees at `target`.

    `inside` is a path below `source` that programs may change at any time: no link is followed on it, and what is missing is made.
    With `needs_ids` the container must be able to own what is there, or it can't start. With `is_device` it is a device node.
    """

    source: Path
    target: str
    read_only: bool = True
    inside: tuple[str, ...] = ()
    needs_ids: bool = False
    is_device: bool = False


@dataclass(frozen=True)
class Link:
    """A symbolic link in a container, made before its program starts; an empty directory of the image gives way to it."""

    path: str
    target: str


@dataclass(frozen=True)
class Hook:
    """A program of the host that the OCI runtime runs at a point of a container's life; `timeout_s` 0: no limit."""

    point: str  # "createContainer" and the like, as the runtime specification names them
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    timeout_s: int = 0


@dataclass(frozen=True)
class Recipe:
    """What a template is made of, from which containers are forked: all that many containers of an image have in common.

    `args` is their program, `env` that part of their environment that holds nothing of one of them; `modules` are imported ahead,
    those of `rejected` packages never.
    """

    layers: tuple[Path, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    modules: tuple[str, ...] = ()
    name: str = ""  # for people
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True)
class TemplateState:
    """A template that containers may be forked from; `ready_at` in seconds since the epoch."""

    name: str
    memory_bytes: int
    modules: int
    ready_at: float


@dataclass(frozen=True)
class ContainerSpec:
    """One container: its root file system, its process, its limits.

    `layers` are directories with unshifted ids, lowest first. A limit of 0 means none. `upper`, where given,
    receives what the container writes, ids unshifted, so that it can become the next layer.
    """

    container_id: str
    layers: tuple[Path, ...]
    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str = "/"
    user: str = ""
    binds: tuple[Bind, ...] = ()
    links: tuple[Link, ...] = ()
    milli_cpu: int = 0
    milli_cpu_limit: int = 0
    memory_limit_mib: int = 0
    memory_request_mib: int = 0
    disk_limit_mib: int = 0
    pids_limit: int = 4096
    block_network: bool = False
    upper: Path | None = None
    gpus: tuple[str, ...] = ()  # uuids
    hooks: tuple[Hook, ...] = ()
    recipe: Recipe | None = None  # of a template from which it may be forked


@dataclass(frozen=True)
class Exit:
    """How a container ended; `code` is 128 + signal for a signal, `message` is for people and may be empty."""

    code: int
    oom_killed: bool
    peak_memory_bytes: int
    cpu_seconds: float
    message: str = ""


class ContainerHandle(Protocol):
    """A container that was started."""

    async def wait(self) -> Exit:
        """Return once the container is gone and its traces on the host are cleared; may be awaited repeatedly."""
        ...

    async def kill(self) -> None:
        """End the container's processes at once; safe to repeat and after its end."""
        ...


class RunningContainer(ContainerHandle, Protocol):
    """A container that can be told things.

    `address` is its network interface's: empty where it has none; `is_warm`: it was forked from a template; `told_ns`: when a
    forked one was told what it is, since the epoch; 0 of others.
    """

    address: str
    is_warm: bool
    told_ns: int

    @property
    def setup_ms(self) -> Mapping[str, float]:
        """How long each part of its set-up took."""
        ...

    @property
    def pid(self) -> int:
        """Of its init, on this machine."""
        ...

    def signal(self, signum: int) -> None:
        """Send a signal to its program; does nothing once it has ended."""
        ...

    def answered(self) -> None:
        """It has answered its first input: what a start takes is over."""
        ...

    def hold_output(self, held: bool) -> None:
        """Leave what it prints in its pipes, so that it has to wait once they are full; or read on."""
        ...

    def read_output(self) -> None:
        """Hand on at once the whole lines that it has printed so far, unless they are held."""
        ...


class ContainerRuntime(Protocol):
    """What starts containers."""

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> ContainerHandle:
        """Start the container; errors: Busy where this machine can't run it."""
        ...
