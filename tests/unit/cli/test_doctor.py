"""Doctor's judgement of machines that we do not have."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotlight.cli.doctor import Finding, Level, examine
from pilotlight.cli.machine import PROGRAMS, Facts

GOOD = Facts(
    kernel=(6, 1),
    python=(3, 11, 2),
    is_root=True,
    is_privileged=True,
    overlayfs=True,
    cgroup_layout="v2",
    cgroup_controllers=frozenset({"cpu", "memory", "pids", "io"}),
    cgroup_writable=True,
    user_namespaces=60000,
    programs={name: f"/usr/bin/{name}" for name in PROGRAMS},
    ports={"--api": 9900, "--web": 9980},
    port_holders={},
    is_running=False,
    ip_forward=False,
    can_set_sysctl=True,
    nf_tables=True,
    state=Path("/state"),
    state_filesystem="ext4",
    disk_free_mib=50_000,
    container_engine="",
    is_wsl=False,
    is_wsl1=False,
    inotify_instances=128,
    inotify_watches=192_000,
    localhost_names=True,
)


def complaints(facts: Facts) -> list[Finding]:
    return [finding for finding in examine(facts) if finding.level != "ok"]


def test_a_machine_on_which_nothing_can_be_looked_at_runs_no_container() -> None:
    [found] = complaints(replace(GOOD, cannot_hold="Operation not permitted"))
    assert (found.level, found.check) == ("problem", "verification") and "ptrace_scope" in found.mend
    [found] = complaints(replace(GOOD, cannot_read_filters="Input/output error"))
    assert (found.level, found.check) == ("warning", "verification") and "no container starts warm" in found.message


def test_a_good_machine_has_nothing_to_mend() -> None:
    assert complaints(GOOD) == []
    assert all(not finding.mend for finding in examine(GOOD))


@pytest.mark.parametrize(
    ("change", "check", "level", "mend"),
    [
        ({"kernel": (5, 10)}, "kernel", "warning", "linux-image"),
        ({"overlayfs": False}, "overlayfs", "problem", "modprobe overlay"),
        ({"cgroup_layout": "none", "cgroup_writable": False}, "cgroups", "problem", "mount -t cgroup2"),
        ({"cgroup_writable": False}, "cgroups", "problem", "remount,rw"),
        ({"cgroup_writable": False, "container_engine": "Docker"}, "cgroups", "problem", "--privileged"),
        ({"cgroup_controllers": frozenset({"cpu"})}, "cgroups", "problem", "+memory +pids"),
        ({"is_root": False}, "root", "problem", "sudo"),
        ({"user_namespaces": 0}, "user namespaces", "problem", "max_user_namespaces"),
        ({"programs": {n: n for n in PROGRAMS if n != "crun"}}, "crun", "problem", "apt-get install -y crun"),
        ({"programs": {n: n for n in PROGRAMS if n != "skopeo"}}, "skopeo", "warning", "apt-get install -y skopeo"),
        ({"programs": {n: n for n in PROGRAMS if n != "uv"}}, "uv", "problem", "make setup"),
        ({"port_holders": {9900: "python (pid 7)"}}, "port 9900", "problem", "--api 127.0.0.1:9901"),
        ({"can_set_sysctl": False}, "forwarding", "problem", "ip_forward=1"),
        ({"nf_tables": False}, "nf_tables", "problem", "modprobe nf_tables"),
        ({"disk_free_mib": 2000}, "disk", "warning", "--state"),
        ({"disk_free_mib": 500}, "disk", "problem", "--state"),
        ({"state_filesystem": "overlay"}, "state directory", "problem", "--state"),
        ({"disk_limits": "tmpfs"}, "ephemeral disk", "warning", "modprobe loop"),
        ({"container_engine": "Docker", "is_privileged": False}, "surroundings", "problem", "--privileged"),
        ({"is_wsl": True, "is_wsl1": True}, "surroundings", "problem", "wsl --set-version"),
        ({"python": (3, 9, 2)}, "python", "problem", "python3"),
        ({"inotify_instances": 8}, "inotify", "warning", "sysctl"),
        ({"localhost_names": False}, "*.localhost", "warning", "libnss-myhostname"),
    ],
)
def test_each_lack_is_named_with_what_mends_it(change: dict[str, Any], check: str, level: Level, mend: str) -> None:
    (finding,) = complaints(replace(GOOD, **change))
    assert (finding.check, finding.level) == (check, level)
    assert mend in finding.mend


def test_findings_can_be_told_as_json() -> None:
    assert json.dumps([vars(finding) for finding in examine(GOOD)])
