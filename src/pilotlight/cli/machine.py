"""The facts about this machine that `doctor` judges. Looking changes nothing."""

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight.cli.machine_gpus import GpuFacts, gather_gpus
from pilotlight.config import Settings
from pilotlight.node import tracing
from pilotlight.node.disk import LOOP, method
from pilotlight.supervisor import lock
from pilotlight.supervisor.addresses import holder_of, is_listening, parse

MINIMUM_PYTHON = (3, 11)
CGROUPS = Path("/sys/fs/cgroup")
CAP_SYS_ADMIN = 21  # linux/capability.h


@dataclass(frozen=True)
class Program:
    """A program that we start: what for, the Debian package it is in ("" if it comes with `make setup`), and if all needs it."""

    duty: str
    package: str
    needed: bool = True


PROGRAMS: Mapping[str, Program] = {
    "crun": Program("runs containers", "crun"),
    "catatonit": Program("is the first process of each container", "catatonit"),
    "nft": Program("gives containers their network", "nftables"),
    "ip": Program("gives containers their network", "iproute2"),
    "mmdebstrap": Program("makes base images where no registry answers", "mmdebstrap"),
    "skopeo": Program("fetches images from registries", "skopeo", needed=False),
    "rclone": Program("mounts buckets (modal.CloudBucketMount)", "rclone", needed=False),
    "fusermount3": Program("mounts buckets (modal.CloudBucketMount)", "fuse3", needed=False),
    "runsc": Program("answers system calls of functions under --isolation strict", "runsc", needed=False),
    "uv": Program("installs the client's dependencies for containers", ""),
}


@dataclass(frozen=True)
class Facts:
    """What doctor knows about a machine. `port_holders` has an entry, maybe empty, for each port that someone else holds."""

    kernel: tuple[int, ...]
    python: tuple[int, ...]
    is_root: bool
    is_privileged: bool
    overlayfs: bool
    cgroup_layout: str  # "v1", "v2", "hybrid" or "none"
    cgroup_controllers: frozenset[str]
    cgroup_writable: bool
    user_namespaces: int
    programs: Mapping[str, str]  # name → path
    ports: Mapping[str, int]  # option → port
    port_holders: Mapping[int, str]
    is_running: bool
    ip_forward: bool
    can_set_sysctl: bool
    nf_tables: bool
    state: Path
    state_filesystem: str
    disk_free_mib: int
    container_engine: str  # "Docker", "Podman", "" …
    is_wsl: bool
    is_wsl1: bool
    inotify_instances: int
    inotify_watches: int
    localhost_names: bool
    gpus: GpuFacts = field(default_factory=GpuFacts)
    cannot_hold: str = ""  # why processes can't be held still to be looked at
    cannot_read_filters: str = ""  # why a process's filter of system calls can't be read
    disk_limits: str = LOOP  # what carries the limits of `ephemeral_disk`: node.disk.method


def _text(path: str | Path) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""


def _number(path: str) -> int:
    return int(_text(path).strip() or 0)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _filesystem_of(path: Path) -> str:
    """The type of the file system that a directory is on, by the longest mount point above it."""
    best = ("", "unknown")
    for line in _text("/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        point = head.split()[4]
        if Path(point) in (path, *path.parents) and len(point) >= len(best[0]):
            best = (point, tail.split()[0])
    return best[1]


def _cgroups() -> tuple[str, frozenset[str], bool]:
    """Layout, controllers that can be used, and whether groups can be made."""
    unified = _text(CGROUPS / "cgroup.controllers").split()
    if (CGROUPS / "cgroup.controllers").exists():
        return "v2", frozenset(unified), os.access(CGROUPS, os.W_OK)
    of_v1: dict[str, str] = {}
    for line in _text("/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        if tail.split()[0] == "cgroup":
            of_v1 |= dict.fromkeys(tail.split()[2].split(","), head.split()[4])
    if not of_v1:
        return "none", frozenset(), False
    layout = "hybrid" if (CGROUPS / "unified").is_dir() else "v1"
    writable = all(os.access(of_v1[name], os.W_OK) for name in ("memory", "pids", "cpu") if name in of_v1)
    return layout, frozenset(of_v1), writable


def _container_engine() -> str:
    if Path("/.dockerenv").exists():
        return "Docker"
    if Path("/run/.containerenv").exists():
        return "Podman"
    named = re.search(r"(?:^|\0)container=([^\0]+)", _text("/proc/1/environ"))  # as systemd-nspawn, LXC and others say it
    return named[1] if named else ""


def _capabilities() -> int:
    found = re.search(r"CapEff:\s*([0-9a-f]+)", _text("/proc/self/status"))
    return int(found[1], 16) if found else 0


def _programs() -> dict[str, str]:
    """Those that are here; beside our Python first, since an installed project need not be on the PATH."""
    places = f"{Path(sys.executable).parent}:{os.defpath}:/usr/local/bin:/usr/sbin:/sbin"
    found = {name: shutil.which(name, path=places) for name in PROGRAMS}
    return {name: path for name, path in found.items() if path}


def _has_nf_tables(programs: Mapping[str, str], *, is_root: bool) -> bool:
    if "nft" not in programs or not is_root:
        return Path("/proc/sys/net/netfilter").exists()
    return subprocess.run([programs["nft"], "list", "tables"], capture_output=True, check=False, timeout=10).returncode == 0


def _resolves_localhost_names() -> bool:
    try:
        return bool(socket.getaddrinfo("pilotlight.localhost", 80))
    except OSError:
        return False


def _ports(settings: Settings, *, is_running: bool) -> tuple[dict[str, int], dict[int, str]]:
    ports = {"--api": parse(settings.api, "--api").port, "--web": parse(settings.web, "--web").port}
    if is_running:
        return ports, {}
    return ports, {port: holder_of(port) for port in ports.values() if is_listening(port)}


def gather(settings: Settings) -> Facts:
    """Look at this machine, for a platform with these settings."""
    is_root = os.geteuid() == 0
    is_running = lock.holder(settings) is not None
    ports, holders = _ports(settings, is_running=is_running)
    layout, controllers, writable = _cgroups()
    programs = _programs()
    cannot_hold, cannot_read_filters = tracing.trial() if is_root else ("", "")
    release = platform.release()
    place = _existing(settings.state)
    return Facts(
        kernel=tuple(int(part) for part in re.findall(r"\d+", release)[:2]),
        python=sys.version_info[:3],
        is_root=is_root,
        is_privileged=bool(_capabilities() >> CAP_SYS_ADMIN & 1),
        overlayfs="overlay" in _text("/proc/filesystems").split() or bool(shutil.which("modprobe") and _has_module("overlay")),
        cgroup_layout=layout,
        cgroup_controllers=controllers,
        cgroup_writable=writable,
        user_namespaces=_number("/proc/sys/user/max_user_namespaces"),
        programs=programs,
        cannot_hold=cannot_hold,
        cannot_read_filters=cannot_read_filters,
        ports=ports,
        port_holders=holders,
        is_running=is_running,
        ip_forward=_number("/proc/sys/net/ipv4/ip_forward") == 1,
        can_set_sysctl=os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK),
        nf_tables=_has_nf_tables(programs, is_root=is_root),
        state=settings.state,
        state_filesystem=_filesystem_of(place),
        disk_limits=method(),
        disk_free_mib=shutil.disk_usage(place).free // 2**20,
        container_engine=_container_engine(),
        is_wsl="microsoft" in release.lower(),
        is_wsl1="microsoft" in release.lower() and "wsl2" not in release.lower(),
        inotify_instances=_number("/proc/sys/fs/inotify/max_user_instances"),
        inotify_watches=_number("/proc/sys/fs/inotify/max_user_watches"),
        localhost_names=_resolves_localhost_names(),
        gpus=gather_gpus(settings),
    )


def _has_module(name: str) -> bool:
    """Whether the kernel could load a module that is not in use yet."""
    return any(Path("/lib/modules", platform.release()).glob(f"kernel/fs/**/{name}.ko*"))
