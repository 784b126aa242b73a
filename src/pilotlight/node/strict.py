"""Containers whose system calls never reach the machine's kernel: gVisor's runsc answers them (`pilotlight up --isolation strict`).

Owns one invariant: what such a container was asked to be, it is, or it does not start; nothing falls back to the ordinary way.
Around gVisor is what every container has: namespaces of its own, control groups, id-mapped layers. docs/decisions/0022 has what was
found. Sources: gvisor.dev, `runsc flags` of the release of 2022-12-19, which is the one that Debian 12 has.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

from pilotlight.core import errors
from pilotlight.core.containers import ContainerSpec
from pilotlight.node import cgroups, syscalls

PROGRAM = "runsc"
SYSCTLS = Path("/proc/sys")
# Limits are those of the groups into which we put it; the gateway is a unix socket of the machine, and the only one it sees.
_FLAGS = ("--ignore-cgroups", "--host-uds=open", "--network=sandbox", "--overlay2=none")


def missing() -> str:
    """Why this machine can't start strict containers, and what to do; empty if it can."""
    if shutil.which(PROGRAM) is None:
        return (
            f"Strict isolation needs gVisor, and {PROGRAM} is not installed. Install it (apt-get install {PROGRAM}), or leave "
            "--isolation strict away."
        )
    return ""


def is_meant(spec: ContainerSpec) -> bool:
    """Whether a container is to be strict where the platform is: build steps are ordinary ones, whose files become layers."""
    return spec.upper is None


def refuse(spec: ContainerSpec) -> None:
    """Raises InvalidInput for what a strict container can't have."""
    if spec.gpus or spec.hooks or any(bind.is_device for bind in spec.binds):
        raise errors.InvalidInput(
            f"Container {spec.container_id} asks for a GPU, and the platform runs with --isolation strict, under which containers "
            "have no devices. Run it on a platform without strict isolation."
        )


def command(state: Path, log: Path) -> list[str]:
    """The runtime and its flags, before its own command."""
    return [PROGRAM, "--root", str(state), "--log", str(log), "--log-format", "json", *_FLAGS]


def document(config: dict[str, Any]) -> dict[str, Any]:
    """A bundle for gVisor: its own filter is stricter than ours, and the kernel whose settings we make is not the one it shows."""
    linux = {name: value for name, value in config["linux"].items() if name not in ("seccomp", "sysctl")}
    return {**config, "linux": linux}


@contextlib.contextmanager
def without_network_settings(directory: Path) -> Generator[None]:
    """Inside a private mount namespace: /proc/sys without its part `net`.

    Where net.core.dev_weight is seen, that release takes the network namespace for the machine's own and refuses to use it. That
    was a good test when it was written; newer kernels show it everywhere.
    """
    for entry in SYSCTLS.iterdir():
        (directory / entry.name).mkdir(parents=True, exist_ok=True)
        if entry.name != "net":
            syscalls.mount(entry, directory / entry.name, None, syscalls.MS_BIND)
    syscalls.mount(directory, SYSCTLS, None, syscalls.MS_BIND | syscalls.MS_REC)
    yield


def check(container_id: str, pid: int, group: cgroups.Group) -> None:
    """Look at gVisor's own process from outside, before anything of the image runs in it; raises PilotlightError.

    What runs inside is its business. It has to be nobody, in namespaces of its own, and in the container's groups.
    """
    process = Path("/proc", str(pid))
    faults = [
        f"its {name} namespace is the machine's"
        for name in ("user", "net", "mnt", "ipc")
        if (process / "ns" / name).readlink() == Path("/proc/self/ns", name).readlink()
    ]
    if "0" in _status(pid)["Uid"].split():
        faults.append("it is root on the machine")
    if pid not in group.processes():
        faults.append("it is not in the container's control groups")
    _raise(container_id, faults)


def check_filter(container_id: str, pid: int) -> None:
    """The same once the program was started: gVisor filters its own calls just before. One that has ended already is no danger."""
    try:
        status = _status(pid)
    except FileNotFoundError:
        return
    if not status["State"].startswith(("Z", "X")):
        faults = {"Seccomp": ("2", "its system calls are not filtered"), "NoNewPrivs": ("1", "it can gain rights")}
        _raise(container_id, [said for name, (value, said) in faults.items() if status[name].strip() != value])


def _status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _raise(container_id: str, faults: list[str]) -> None:
    if faults:
        raise errors.PilotlightError(f"Container {container_id} is not isolated as it must be: {'; '.join(faults)}. It was killed.")


def companions(pid: int, group: cgroups.Group) -> tuple[int, ...]:
    """Our children in the container's groups beside the sandbox: what serves it its files."""
    return tuple(process for process in group.processes() if process != pid and _parent_of(process) == os.getpid())


def bury(container_id: str, processes: tuple[int, ...], state: Path) -> None:
    """End the companions, take their exit codes, forget the container; safe to repeat. runsc's `delete` waits for what is dead."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    for file in state.glob(f"{container_id}*"):
        file.unlink(missing_ok=True)


def _parent_of(process: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
