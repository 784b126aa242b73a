"""Ways into the kernel itself: calls that change mounts and namespaces, load code, set clocks, or have a record of faults."""

import ctypes
import fcntl
import mmap
import os
import platform
import resource
import shutil
import signal
import struct
import subprocess
from functools import partial
from pathlib import Path

from . import Attempts, probe
from .calls import NUMBERS, call, libc

NAMESPACES = {
    "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
    "network": 0x40000000, "time": 0x80,
}  # fmt: skip
NOWHERE = b"/nonexistent\0"


def _gate(attempts: Attempts, name: str, *arguments: object) -> None:
    if name in NUMBERS:
        attempts.gate(name, partial(call, name, *arguments))


@probe()
def mounts(attempts: Attempts) -> None:
    """mount(2) in all its forms, and taking masks away."""
    _gate(attempts, "mount", b"none", NOWHERE, b"tmpfs", 0, 0)
    _gate(attempts, "mount", b"none", NOWHERE, b"proc", 0, 0)
    _gate(attempts, "mount", b"none", NOWHERE, b"cgroup", 0, b"release_agent=/x")
    _gate(attempts, "mount", b"/", NOWHERE, 0, 4096, 0)
    _gate(attempts, "mount", 0, NOWHERE, 0, 32 | 4096, 0)
    _gate(attempts, "mount", 0, NOWHERE, 0, 1 << 20, 0)
    _gate(attempts, "umount2", NOWHERE, 2)


@probe()
def mounts_by_descriptors(attempts: Attempts) -> None:
    """The newer calls for mounts."""
    _gate(attempts, "fsopen", b"nonexistent", 0)
    _gate(attempts, "fspick", -1, NOWHERE, 0)
    _gate(attempts, "fsmount", -1, 0, 0)
    _gate(attempts, "fsconfig", -1, 0, 0, 0, 0)
    _gate(attempts, "open_tree", -1, NOWHERE, 1)
    _gate(attempts, "move_mount", -1, NOWHERE, -1, NOWHERE, 0)
    _gate(attempts, "mount_setattr", -1, NOWHERE, 0, 0, 0)


@probe()
def pivoting(attempts: Attempts) -> None:
    _gate(attempts, "pivot_root", NOWHERE, NOWHERE)


@probe(own_kernel=True)
def unsharing(attempts: Attempts) -> None:
    """A namespace of each kind, above all a user namespace with all capabilities in it."""
    for kind, flag in NAMESPACES.items():
        attempts.denied(f"unshare {kind}", partial(_in_child, partial(call, "unshare", flag)))
    attempts.denied("unshare user and mount", partial(_in_child, partial(call, "unshare", 0x10000000 | 0x20000)))


def _in_child(act: partial[int]) -> int:
    """Do it in a child, whose end tells the error."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except OSError as error:
            os._exit(min(error.errno or 255, 255))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return 0


@probe(own_kernel=True)
def cloning(attempts: Attempts) -> None:
    """clone(2) with a flag for a namespace; the child ends at once."""
    for kind, flag in NAMESPACES.items():
        if kind != "time":
            attempts.denied(f"clone {kind}", partial(_clone, flag))


def _clone(flag: int) -> int:
    child = call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@probe(own_kernel=True)
def cloning_by_structure(attempts: Attempts) -> None:
    """clone3(2), whose flags no filter can read."""
    _gate(attempts, "clone3", 0, 0)


@probe(own_kernel=True)
def entering_namespaces(attempts: Attempts) -> None:
    """setns(2) to those of all processes that are visible."""
    for entry in Path("/proc/1/ns").iterdir():
        attempts.gate(f"setns {entry.name}", partial(_enter, entry))
    _gate(attempts, "setns", -1, 0)


def _enter(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _in_child(partial(call, "setns", descriptor, 0))
    finally:
        os.close(descriptor)


@probe(own_kernel=True)
def user_namespaces_by_programs(attempts: Attempts) -> None:
    """As people do it."""
    program = shutil.which("unshare")
    if program is None:
        attempts.refused("the image has no such program")
        return
    for flags in (["-Ur"], ["-Urm"], ["-Urn"], ["-Up", "-f"]):
        done = subprocess.run([program, *flags, "true"], capture_output=True, text=True, check=False)
        (attempts.refused if done.returncode else attempts.reached)(f"unshare {flags}: {done.stderr.strip()}")


@probe()
def programs_in_the_kernel(attempts: Attempts) -> None:
    """bpf(2)."""
    for command in range(6):
        _gate(attempts, "bpf", command, 0, 0)


@probe(own_kernel=True)
def performance_events(attempts: Attempts) -> None:
    _gate(attempts, "perf_event_open", 0, 0, -1, -1, 0)


@probe()
def page_faults_by_descriptor(attempts: Attempts) -> None:
    """userfaultfd(2)."""
    _gate(attempts, "userfaultfd", 0)
    _gate(attempts, "userfaultfd", 1)
    attempts.denied("open /dev/userfaultfd", partial(os.open, "/dev/userfaultfd", os.O_RDWR))


@probe(own_kernel=True)
def io_rings(attempts: Attempts) -> None:
    """io_uring."""
    _gate(attempts, "io_uring_setup", 1, 0)
    _gate(attempts, "io_uring_enter", -1, 0, 0, 0, 0, 0)
    _gate(attempts, "io_uring_register", -1, 0, 0, 0)


@probe()
def keyrings(attempts: Attempts) -> None:
    """Keys are of a user, and all containers' roots are the same user outside."""
    _gate(attempts, "add_key", b"user", b"escape", b"x", 1, -2)
    _gate(attempts, "request_key", b"user", b"escape-canary", 0, -4)
    for command in (0, 6, 11, 17):
        _gate(attempts, "keyctl", command, -4, 0, 0, 0)
    attempts.finds("/proc/keys", partial(_text, "/proc/keys"))


def _text(path: str) -> str:
    return Path(path).read_bytes()[:200].decode(errors="replace").strip("\0\n")


@probe()
def kernel_modules(attempts: Attempts) -> None:
    _gate(attempts, "init_module", 0, 0, 0)
    _gate(attempts, "finit_module", -1, 0, 0)
    _gate(attempts, "delete_module", 0, 0)


@probe()
def another_kernel(attempts: Attempts) -> None:
    """kexec and reboot, with arguments that do neither."""
    _gate(attempts, "kexec_load", 0, 99, 0, 0)
    _gate(attempts, "kexec_file_load", -1, -1, 0, 0, 0)
    _gate(attempts, "reboot", 0, 0, 0, 0)


@probe()
def clocks(attempts: Attempts) -> None:
    _gate(attempts, "settimeofday", 1, 1)
    _gate(attempts, "clock_settime", 0, 1)
    _gate(attempts, "adjtimex", 1)
    _gate(attempts, "clock_adjtime", 0, 1)


@probe(own_kernel=True)
def names_of_the_machine(attempts: Attempts) -> None:
    _gate(attempts, "sethostname", 1, 3)
    _gate(attempts, "setdomainname", 1, 3)


@probe(own_kernel=True)
def kernel_log(attempts: Attempts) -> None:
    _gate(attempts, "syslog", 3, 0, -1)
    for path in ("/dev/kmsg", "/proc/kmsg"):
        attempts.denied(f"open {path}", partial(os.open, path, os.O_RDONLY | os.O_NONBLOCK))


@probe()
def swap_quotas_accounts(attempts: Attempts) -> None:
    _gate(attempts, "swapon", NOWHERE, 0)
    _gate(attempts, "swapoff", NOWHERE)
    _gate(attempts, "quotactl", 0, NOWHERE, 0, 0)
    _gate(attempts, "quotactl_fd", -1, 0, 0, 0)
    _gate(attempts, "acct", NOWHERE)


@probe()
def ports_of_the_machine(attempts: Attempts) -> None:
    _gate(attempts, "iopl", 99)
    _gate(attempts, "ioperm", 0xFFFFFFFF, 2, 1)
    attempts.denied("open /dev/port", partial(os.open, "/dev/port", os.O_RDWR))


@probe()
def pages_of_others(attempts: Attempts) -> None:
    _gate(attempts, "move_pages", 1, 0, 0, 0, 0, 99)
    _gate(attempts, "migrate_pages", 1, 0, 0, 0)
    _gate(attempts, "kcmp", 1, 1, 99, 0, 0)


@probe()
def files_by_handle(attempts: Attempts) -> None:
    """A made-up handle of inode 2, the root of the host's file system, opened by way of any file of that file system."""
    handle = struct.pack("=IiII", 8, 1, 2, 0)
    for path in ("/", "/etc/hosts", "/tmp", attempts.around.volume or "/etc/resolv.conf"):
        descriptor = os.open(path, os.O_RDONLY)
        attempts.denied(f"by {path}", partial(call, "open_by_handle_at", descriptor, handle, os.O_RDONLY))
        os.close(descriptor)


@probe()
def file_notifications(attempts: Attempts) -> None:
    """fanotify sees a whole file system, that of the host too."""
    _gate(attempts, "fanotify_init", 0, 0)


@probe()
def personalities(attempts: Attempts) -> None:
    attempts.denied("no address randomization", partial(call, "personality", 0x0040000))
    attempts.denied("all memory executable", partial(call, "personality", 0x0400000))


@probe(own_kernel=True)
def other_call_tables(attempts: Attempts) -> None:
    """The calls of 32-bit programs have other numbers, and a filter of the 64-bit ones would not know them."""
    if platform.machine() != "x86_64":
        attempts.refused("this machine has one table")
        return
    attempts.denied("unshare by x32", partial(_in_child, partial(_by_number, 0x40000000 | NUMBERS["unshare"], 0x20000)))
    # mov eax, 310 (unshare); mov ebx, CLONE_NEWNS; int 0x80; ret
    code = bytes.fromhex("53 b8 36010000 bb 00000200 cd80 5b c3")
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(code)
    unshare = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))
    child = os.fork()
    if child == 0:
        os._exit(1 if unshare() < 0 else 0)
    status = os.waitpid(child, 0)[1]
    (attempts.reached if status == 0 else attempts.refused)(f"unshare by int 0x80: status {status}")


def _by_number(number: int, argument: int) -> int:
    result = libc.syscall(ctypes.c_long(number), ctypes.c_long(argument))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


@probe(own_kernel=True)
def priorities(attempts: Attempts) -> None:
    """To go before everybody else on the machine."""
    attempts.denied("real-time scheduling", partial(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(50)))
    attempts.denied("nice -20", partial(os.setpriority, os.PRIO_PROCESS, 0, -20))
    attempts.denied("killed last when memory is short", partial(_write, "/proc/self/oom_score_adj", "-1000"))


def _write(path: str, text: str) -> int:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        return os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


@probe()
def higher_limits(attempts: Attempts) -> None:
    """More of what the kernel counts by user than was given."""
    for name in ("RLIMIT_NOFILE", "RLIMIT_MSGQUEUE", "RLIMIT_SIGPENDING", "RLIMIT_MEMLOCK", "RLIMIT_RTPRIO", "RLIMIT_NICE"):
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY:
            attempts.refused(f"{name} is bounded by memory only")
        else:
            attempts.denied(f"{name} above {hard}", partial(resource.setrlimit, kind, (hard + 1, hard + 1)))


@probe(on_host=False)
def typing_for_others(attempts: Attempts) -> None:
    """Characters pushed into a terminal (TIOCSTI) are read by whoever reads it outside."""
    for path in ("/dev/tty", "/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0", "/dev/vcs"):
        attempts.denied(f"open {path}", partial(os.open, path, os.O_RDWR | os.O_NOCTTY))
    for descriptor in (0, 1, 2):
        attempts.denied(f"push into {descriptor}", partial(fcntl.ioctl, descriptor, 0x5412, b"x"))
