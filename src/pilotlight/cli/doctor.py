"""`pilotlight doctor`: what this machine lacks, and the command that mends it.

The checks are pure: they judge the facts that `machine.py` gathers, so that every machine can be tried on any machine.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import click

from pilotlight.cli.doctor_gpus import judge
from pilotlight.cli.findings import Finding, Level
from pilotlight.cli.machine import MINIMUM_PYTHON, PROGRAMS, Facts, gather
from pilotlight.cli.options import settings_for, state_option
from pilotlight.node.disk import LOOP
from pilotlight.supervisor.start import running_settings

OLDEST_KERNEL = (5, 19)  # overlayfs over id-mapped layers
FREE_DISK_MIB = 5 * 1024
LOW_DISK_MIB = 1024
INOTIFY_INSTANCES = 128
INOTIFY_WATCHES = 65536
NEEDED_CONTROLLERS = ("memory", "pids", "cpu")


def _kernel(facts: Facts) -> Finding:
    release = ".".join(map(str, facts.kernel))
    if facts.kernel >= OLDEST_KERNEL:
        return Finding("kernel", "ok", f"Linux {release}")
    return Finding(
        "kernel",
        "warning",
        f"Linux {release} can't id-map overlay layers (5.19 can): images are copied once more as they are unpacked",
        "apt-get install linux-image-amd64 && reboot",
    )


def _overlay(facts: Facts) -> Finding:
    if facts.overlayfs:
        return Finding("overlayfs", "ok", "the kernel has it")
    return Finding(
        "overlayfs", "problem", "the kernel does not offer overlayfs, on which containers' files rest", "modprobe overlay"
    )


def _cgroups(facts: Facts) -> Finding:
    missing = [name for name in NEEDED_CONTROLLERS if name not in facts.cgroup_controllers]
    if facts.cgroup_layout == "none":
        return Finding("cgroups", "problem", "no cgroup file system is mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    if not facts.cgroup_writable:
        mend = "docker run --privileged --cgroupns=private …" if facts.container_engine else "mount -o remount,rw /sys/fs/cgroup"
        return Finding(
            "cgroups", "problem", f"the {facts.cgroup_layout} layout is there but not writable: containers get no limits", mend
        )
    if missing:
        return Finding(
            "cgroups",
            "problem",
            f"layout {facts.cgroup_layout}, without the controllers {', '.join(missing)}: no limits for containers",
            f"echo '{' '.join('+' + name for name in missing)}' > /sys/fs/cgroup/cgroup.subtree_control",
        )
    return Finding("cgroups", "ok", f"layout {facts.cgroup_layout}, with {', '.join(NEEDED_CONTROLLERS)}")


def _root(facts: Facts) -> Finding:
    if facts.is_root:
        return Finding("root", "ok", "running as root")
    return Finding(
        "root", "problem", "the node agent makes namespaces, mounts and a network: it needs root", "sudo .venv/bin/pilotlight up"
    )


def _namespaces(facts: Facts) -> Finding:
    if facts.user_namespaces > 0:
        return Finding("user namespaces", "ok", f"up to {facts.user_namespaces}")
    return Finding(
        "user namespaces",
        "problem",
        "the kernel allows none, and each container has one",
        "sysctl -w user.max_user_namespaces=65536",
    )


def _verification(facts: Facts) -> Finding:
    if facts.cannot_hold:
        return Finding(
            "verification",
            "problem",
            f"processes can't be held by ptrace ({facts.cannot_hold}), and no container begins before it was looked at",
            "sysctl -w kernel.yama.ptrace_scope=1",
        )
    if facts.cannot_read_filters:
        return Finding(
            "verification",
            "warning",
            f"this kernel does not tell a process's filter of system calls ({facts.cannot_read_filters}): that there is one is "
            "checked, not which, and no container starts warm",
            "use a kernel with CONFIG_CHECKPOINT_RESTORE, and start the platform outside of a seccomp profile",
        )
    return Finding("verification", "ok", "each container is looked at before it begins")


def _programs(facts: Facts) -> Iterator[Finding]:
    for name, program in PROGRAMS.items():
        if name in facts.programs:
            yield Finding(name, "ok", facts.programs[name])
        else:
            mend = f"apt-get install -y {program.package}" if program.package else "make setup"
            yield Finding(name, "problem" if program.needed else "warning", f"{name} is not installed: it {program.duty}", mend)


def _ports(facts: Facts) -> Iterator[Finding]:
    for option, port in facts.ports.items():
        holder = facts.port_holders.get(port)
        if holder is None:
            yield Finding(f"port {port}", "ok", "held by this platform" if facts.is_running else "free")
        else:
            message = f"in use by {holder or 'a process of another user'}"
            yield Finding(f"port {port}", "problem", message, f"pilotlight up {option} 127.0.0.1:{port + 1}")


def _forwarding(facts: Facts) -> Finding:
    if facts.ip_forward or facts.can_set_sysctl:
        return Finding("forwarding", "ok", "on" if facts.ip_forward else "off; `pilotlight up` turns it on")
    return Finding("forwarding", "problem", "net.ipv4.ip_forward is off and read-only here", "sysctl -w net.ipv4.ip_forward=1")


def _netfilter(facts: Facts) -> Finding:
    if facts.nf_tables:
        return Finding("nf_tables", "ok", "the kernel has it")
    return Finding(
        "nf_tables", "problem", "the kernel's nf_tables does not answer: no network for containers", "modprobe nf_tables"
    )


def _disk(facts: Facts) -> Finding:
    message = f"{facts.disk_free_mib / 1024:.1f} GiB free for {facts.state}"
    if facts.disk_free_mib >= FREE_DISK_MIB:
        return Finding("disk", "ok", message)
    return Finding(
        "disk",
        "problem" if facts.disk_free_mib < LOW_DISK_MIB else "warning",
        message,
        "pilotlight up --state DIR-ON-A-LARGER-DISK",
    )


def _disk_limits(facts: Facts) -> Finding:
    if facts.disk_limits == LOOP:
        return Finding("ephemeral disk", "ok", "limits are kept by sparse files on loop devices")
    return Finding(
        "ephemeral disk",
        "warning",
        "no loop devices: what a container with an ephemeral_disk limit writes is kept in memory, and counts as its own",
        "modprobe loop && apt-get install e2fsprogs mount",
    )


def _state_filesystem(facts: Facts) -> Finding:
    if facts.state_filesystem in ("overlay", "nfs", "nfs4", "9p", "drvfs", "fuseblk", "vboxsf"):
        return Finding(
            "state directory",
            "problem",
            f"{facts.state} is on {facts.state_filesystem}, which can't be the upper layer of an overlay",
            "pilotlight up --state DIR-ON-EXT4-XFS-OR-BTRFS",
        )
    return Finding("state directory", "ok", f"{facts.state} on {facts.state_filesystem}")


def _surroundings(facts: Facts) -> Finding:
    if facts.is_wsl1:
        return Finding("surroundings", "problem", "WSL 1 has no Linux kernel", "wsl --set-version <distribution> 2")
    if facts.container_engine and not facts.is_privileged:
        return Finding(
            "surroundings",
            "problem",
            f"inside {facts.container_engine}, without the capability to mount",
            "docker run --privileged -v pilotlight:/root/.local/state …",
        )
    if facts.container_engine:
        return Finding("surroundings", "ok", f"inside {facts.container_engine}, privileged")
    return Finding("surroundings", "ok", "WSL 2" if facts.is_wsl else "a machine of its own")


def _python(facts: Facts) -> Finding:
    version = ".".join(map(str, facts.python))
    if facts.python >= MINIMUM_PYTHON:
        return Finding("python", "ok", version)
    return Finding(
        "python", "problem", f"{version} is too old: 3.11 is needed", "apt-get install -y python3 python3-venv && make setup"
    )


def _inotify(facts: Facts) -> Finding:
    if facts.inotify_instances >= INOTIFY_INSTANCES and facts.inotify_watches >= INOTIFY_WATCHES:
        return Finding("inotify", "ok", f"{facts.inotify_instances} instances, {facts.inotify_watches} watches")
    return Finding(
        "inotify",
        "warning",
        f"{facts.inotify_instances} instances, {facts.inotify_watches} watches: `modal serve` may miss changes of files",
        f"sysctl -w fs.inotify.max_user_instances={INOTIFY_INSTANCES} fs.inotify.max_user_watches={INOTIFY_WATCHES}",
    )


def _localhost_names(facts: Facts) -> Finding:
    if facts.localhost_names:
        return Finding("*.localhost", "ok", "names below localhost resolve")
    return Finding(
        "*.localhost",
        "warning",
        "names below localhost do not resolve in Python and Node: web URLs open in browsers and curl only",
        "apt-get install -y libnss-myhostname",
    )


def _gpus(facts: Facts) -> Iterator[Finding]:
    yield from judge(facts.gpus)


CHECKS: tuple[Callable[[Facts], Finding | Iterator[Finding]], ...] = (
    _root,
    _surroundings,
    _python,
    _kernel,
    _overlay,
    _cgroups,
    _namespaces,
    _verification,
    _programs,
    _ports,
    _netfilter,
    _forwarding,
    _state_filesystem,
    _disk,
    _disk_limits,
    _inotify,
    _localhost_names,
    _gpus,
)


def examine(facts: Facts) -> list[Finding]:
    """All checks' findings on these facts, in a fixed order."""
    findings: list[Finding] = []
    for check in CHECKS:
        found = check(facts)
        findings.extend([found] if isinstance(found, Finding) else found)
    return findings


SIGNS: dict[Level, str] = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@state_option
def doctor(as_json: bool, state: Path | None) -> None:
    """Say what this machine lacks and how to mend it.

    Exit code 1 if something stops Pilotlight.
    """
    findings = examine(gather(running_settings(settings_for(state))))
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not problems, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            click.echo(f"{SIGNS[finding.level]}  {finding.check}: {finding.message}")
            if finding.mend:
                click.echo(f"         mend it: {finding.mend}")
        click.echo(f"{problems} to mend before Pilotlight can run." if problems else "Pilotlight can run here.")
    sys.exit(1 if problems else 0)
