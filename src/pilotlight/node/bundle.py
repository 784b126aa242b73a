"""From what a container should be to the OCI runtime's `config.json`.

Owns one invariant: every container has its own user, pid, mount, network, uts, ipc and cgroup namespaces, the allow-list of system
calls, no privilege to gain, and no more capabilities than DEFAULT_CAPABILITIES. Pure: paths and ids in, a document out. Source: OCI
runtime specification 1.0, config.md and config-linux.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotlight.core.containers import Hook
from pilotlight.node import kernel_shares, seccomp
from pilotlight.node.rootfs import IdMap

INIT_TARGET = "/__pilotlight/init"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPEN_FILES = 65_536  # soft limit, where the host's hard limit allows it
OPEN_FILES_HARD = 1_048_576
OOM_SCORE_ADJUST = 500  # when the whole machine runs out of memory, containers go before the platform

# The default set of container engines, less NET_RAW, with which a container could forge its neighbours' packets.
DEFAULT_CAPABILITIES = (
    *("CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD"),
    *("CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"),
)

_NAMESPACES = ("user", "pid", "mount", "network", "uts", "ipc", "cgroup")

MASKED = (
    *(f"/proc/{name}" for name in ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi")),
    *("/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
READ_ONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))

_DEVICE_OPTIONS = ["bind", "rprivate", "nosuid", "noexec"]
_PROC_OPTIONS = ["nosuid", "noexec", "nodev"]
MOUNTS: tuple[dict[str, Any], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc", "options": _PROC_OPTIONS},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", f"max={kernel_shares.TERMINALS}"],
    },
    # No size of its own: what lies in it counts as the container's memory.
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _PROC_OPTIONS},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_PROC_OPTIONS, "ro"]},
)


@dataclass(frozen=True)
class User:
    """Who runs the program, as numbers inside the container."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/root"


@dataclass(frozen=True)
class BindMount:
    """A path that the container's root can reach, and where it goes."""

    source: Path
    target: str
    read_only: bool
    is_device: bool = False


@dataclass(frozen=True)
class Bundle:
    """All that `config.json` depends on."""

    hostname: str
    root: Path
    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    user: User
    ids: IdMap
    binds: tuple[BindMount, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    hooks: tuple[Hook, ...] = ()
    open_files_hard: int = OPEN_FILES_HARD  # at most what the agent has itself: a user namespace can't raise it


def config(bundle: Bundle) -> dict[str, Any]:
    """The document for the OCI runtime."""
    mapping = [{"containerID": 0, "hostID": bundle.ids.first, "size": bundle.ids.count}]
    return {
        "ociVersion": "1.0.2",
        "hostname": bundle.hostname,
        "root": {"path": str(bundle.root), "readonly": False},
        "process": _process(bundle),
        "mounts": [*MOUNTS, *(_bind(bind) for bind in bundle.binds)],
        "hooks": _hooks(bundle.hooks),
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
            "seccomp": seccomp.profile(),
            "sysctl": dict(bundle.sysctls),
        },
    }


def _process(bundle: Bundle) -> dict[str, Any]:
    # Whoever is not root keeps the set as a bound only, as everywhere in the container world.
    held = list(DEFAULT_CAPABILITIES) if bundle.user.uid == 0 else []
    hard = min(OPEN_FILES_HARD, bundle.open_files_hard)
    files = {"type": "RLIMIT_NOFILE", "soft": min(OPEN_FILES, hard), "hard": hard}
    cores = {"type": "RLIMIT_CORE", "soft": kernel_shares.NO_CORE_BYTES, "hard": kernel_shares.NO_CORE_BYTES}
    env = {"PATH": DEFAULT_PATH, "HOME": bundle.user.home, **bundle.env}
    return {
        "terminal": False,
        "user": {"uid": bundle.user.uid, "gid": bundle.user.gid, "additionalGids": list(bundle.user.groups)},
        "args": [INIT_TARGET, "--", *bundle.args],
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": bundle.cwd or "/",
        "capabilities": {
            "bounding": list(DEFAULT_CAPABILITIES),
            "effective": held,
            "permitted": held,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [files, cores],
        "noNewPrivileges": True,
        "oomScoreAdj": OOM_SCORE_ADJUST,
    }


def _hooks(hooks: tuple[Hook, ...]) -> dict[str, list[dict[str, Any]]]:
    by_point: dict[str, list[dict[str, Any]]] = {}
    for hook in hooks:
        entry: dict[str, Any] = {"path": hook.path, "args": list(hook.args), "env": list(hook.env)}
        by_point.setdefault(hook.point, []).append(entry | ({"timeout": hook.timeout_s} if hook.timeout_s else {}))
    return by_point


def _bind(bind: BindMount) -> dict[str, Any]:
    if bind.is_device:
        return {"destination": bind.target, "type": "bind", "source": str(bind.source), "options": _DEVICE_OPTIONS}
    options = ["rbind", "rprivate", "nosuid", "nodev", "ro" if bind.read_only else "rw"]
    return {"destination": bind.target, "type": "bind", "source": str(bind.source), "options": options}
