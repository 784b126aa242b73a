"""What /proc, /sys, /dev and the control groups show of the machine, and what can be changed there."""

import os
import re
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import Attempts, probe

WALK_S = 15.0
# major:minor of what every container has: null, zero, full, random, urandom, tty, ptmx and its terminals.
HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
PSEUDO_TERMINALS = 136


def _writable(path: str) -> bool:
    """Whether it can be opened for writing; nothing is written."""
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    return True


def _content(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 4096).strip(b"\0\n ").decode(errors="replace")
    finally:
        os.close(descriptor)


def _walk(top: str) -> Iterator[str]:
    deadline = time.monotonic() + WALK_S
    for directory, _, names in os.walk(top):
        for name in names:
            if time.monotonic() > deadline:
                return
            yield f"{directory}/{name}"


@probe()
def magic_keys(attempts: Attempts) -> None:
    """A letter to sysrq-trigger reboots, or shows all memory."""
    attempts.denied("open sysrq-trigger", partial(_writable, "/proc/sysrq-trigger"))
    attempts.denied("open kernel.sysrq", partial(_writable, "/proc/sys/kernel/sysrq"))


@probe()
def programs_that_the_kernel_starts(attempts: Attempts) -> None:
    """Whoever can name one of these runs a program as root outside."""
    sysctls = ("core_pattern", "modprobe", "hotplug", "poweroff_cmd", "usermodehelper/bset", "core_pipe_limit")
    for path in (*(f"/proc/sys/kernel/{name}" for name in sysctls), "/sys/kernel/uevent_helper"):
        attempts.denied(f"open {path}", partial(_writable, path))
    attempts.denied("open where firmware is", partial(_writable, "/sys/module/firmware_class/parameters/path"))
    attempts.denied("register a format", partial(_writable, "/proc/sys/fs/binfmt_misc/register"))


@probe(own_kernel=True)
def kernel_settings(attempts: Attempts) -> None:
    """Every file below /proc/sys."""
    seen = 0
    for path in _walk("/proc/sys"):
        seen += 1
        try:
            _writable(path)
        except OSError:
            continue
        attempts.reached(f"can write {path}")
    attempts.refused(f"{seen} settings")


@probe()
def memory_of_the_kernel(attempts: Attempts) -> None:
    for path in ("/proc/kcore", "/dev/mem", "/dev/kmem", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup"):
        attempts.finds(path, partial(_content, path))
    attempts.finds("addresses of symbols", partial(_addresses, "/proc/kallsyms"))
    attempts.finds("addresses of modules", partial(_addresses, "/proc/modules"))
    attempts.finds("physical addresses", partial(_addresses, "/proc/iomem"))
    attempts.finds("page frames", _page_frames)


def _addresses(path: str) -> str:
    text = _content(path)
    return next((number for number in re.findall(r"\b(?:0x)?([0-9a-f]{8,16})\b", text) if int(number, 16)), "")


def _page_frames() -> int:
    """The frame number of a page of our own, which tells where it lies in the machine."""
    mapping = next(line for line in Path("/proc/self/maps").read_text().splitlines() if "[stack]" in line)
    page = (int(mapping.split("-")[1].split()[0], 16) - 8192) // 4096
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        file.seek(page * 8)
        return int.from_bytes(file.read(8), "little") & ((1 << 55) - 1)


@probe(own_kernel=True)
def news_of_the_machine(attempts: Attempts) -> None:
    """What tells of other processes' doings."""
    names = ("timer_list", "timer_stats", "sched_debug", "interrupts", "latency_stats", "keys", "slabinfo", "vmallocinfo", "mtrr")
    for name in names:
        attempts.finds(name, partial(_content, f"/proc/{name}"))
    for directory in ("/proc/scsi", "/proc/acpi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap"):
        attempts.finds(directory, partial(os.listdir, directory))
    attempts.finds("schedstat of others", partial(_content, "/proc/pressure/none"))


@probe()
def writable_devices_in_sys(attempts: Attempts) -> None:
    """Every file below /sys."""
    seen = 0
    for path in _walk("/sys"):
        seen += 1
        try:
            _writable(path)
        except OSError:
            continue
        attempts.reached(f"can write {path}")
    attempts.refused(f"{seen} files")


@probe()
def tracing(attempts: Attempts) -> None:
    for directory in ("debug", "tracing", "security", "config", "debug/tracing"):
        attempts.finds(directory, partial(os.listdir, f"/sys/kernel/{directory}"))
    for directory in ("/sys/fs/fuse/connections", "/sys/fs/bpf", "/sys/fs/pstore", "/sys/hypervisor/properties"):
        attempts.finds(directory, partial(os.listdir, directory))
    attempts.denied("create a probe", partial(_writable, "/sys/bus/event_source/devices/uprobe/type"))


@probe()
def control_groups(attempts: Attempts) -> None:
    """Its own limits, those of others, and the program that a v1 hierarchy starts when a group is empty."""
    found = 0
    for path in _walk("/sys/fs/cgroup"):
        found += 1
        attempts.denied(f"open {path}", partial(_writable, path))
    for name in ("release_agent", "memory.max", "memory.limit_in_bytes", "cgroup.procs", "devices.allow", "pids.max"):
        for place in ("", "memory/", "pids/", "unified/", "devices/"):
            path = f"/sys/fs/cgroup/{place}{name}"
            attempts.denied(f"open {path}", partial(_writable, path))
    attempts.denied("make a group", partial(os.mkdir, "/sys/fs/cgroup/escape"))
    attempts.denied("make a group in memory", partial(os.mkdir, "/sys/fs/cgroup/memory/escape"))
    if Path("/sys/fs/cgroup/escape").exists():
        Path("/sys/fs/cgroup/escape").rmdir()
    if Path("/sys/fs/cgroup/memory/escape").exists():
        Path("/sys/fs/cgroup/memory/escape").rmdir()
    attempts.refused(f"{found} files")


@probe(own_kernel=True)
def devices(attempts: Attempts) -> None:
    """All that lies in /dev."""
    for directory, _, names in os.walk("/dev"):
        for name in names:
            path = f"{directory}/{name}"
            found = os.lstat(path)
            number = (os.major(found.st_rdev), os.minor(found.st_rdev))
            if stat.S_ISBLK(found.st_mode):
                attempts.reached(f"{path} is a block device")
            elif stat.S_ISCHR(found.st_mode) and number not in HARMLESS and number[0] != PSEUDO_TERMINALS:
                attempts.reached(f"{path} is device {number}")
            else:
                attempts.refused(path)


@probe(own_kernel=True)
def devices_by_name(attempts: Attempts) -> None:
    names = (
        *("mem", "kvm", "fuse", "loop-control", "loop0", "net/tun", "vda", "sda", "nvme0n1", "mapper/control", "vhost-vsock"),
        *("vhost-net", "uinput", "hpet", "cuse", "autofs", "btrfs-control", "vsock", "sgx_enclave", "nvidiactl", "dri/card0"),
    )
    for name in names:
        attempts.denied(name, partial(os.open, f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK))


@probe(own_kernel=True)
def making_devices(attempts: Attempts) -> None:
    """A node for the disk or the memory of the machine, wherever the container can write."""
    for place in ("/tmp", "/dev", "/dev/shm", "/root", attempts.around.volume or "/var/tmp"):
        for kind, number in ((stat.S_IFBLK, (254, 0)), (stat.S_IFBLK, (7, 0)), (stat.S_IFCHR, (1, 1)), (stat.S_IFCHR, (1, 11))):
            path = f"{place}/escape-device"
            attempts.denied(f"{path} {number}", partial(os.mknod, path, 0o666 | kind, os.makedev(*number)))
            if os.path.lexists(path):
                os.unlink(path)


@probe(on_host=False, own_kernel=True)
def mount_options(attempts: Attempts) -> None:
    """What is mounted: nothing may carry set-uid programs or devices except the root itself, whose users can gain nothing."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point, options = left.split()[4:6]
        flags = set(options.split(","))
        kind = right.split()[0]
        if point == "/":
            continue
        is_mask = "ro" in flags and point.startswith(("/proc/", "/sys/"))
        if "nosuid" not in flags and not is_mask:
            attempts.reached(f"{point} ({kind}) without nosuid: {options}")
        if kind in ("sysfs", "cgroup", "cgroup2") and "ro" not in flags:
            attempts.reached(f"{point} ({kind}) is writable")
        if kind in (
            "securityfs",
            "debugfs",
            "tracefs",
            "bpf",
            "fusectl",
            "configfs",
            "efivarfs",
            "binfmt_misc",
            "cgroup",
            "cgroup2",
        ):
            attempts.reached(f"{kind} is at {point}")
        attempts.refused(point)
