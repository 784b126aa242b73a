"""Other processes, and more rights for one's own."""

import ctypes
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import Attempts, probe
from .calls import call, libc

PTRACE_SEIZE = 0x4206
PR_CAP_AMBIENT, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 47, 24, 38
SYS_ADMIN = 21
# chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, mknod, audit_write, setfcap
ORDINARY = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 27, 29, 31))
SOME_USER = 12_345
STRANGERS = 40_000  # numbers of processes that are tried one by one


def _own() -> set[int]:
    """The processes of this container."""
    return {int(entry) for entry in os.listdir("/proc") if entry.isdecimal()}


def _strangers(attempts: Attempts) -> Iterator[int]:
    own = _own()
    for number in {*attempts.around.pids, *range(2, STRANGERS, 7)}:
        if number not in own:
            yield number


@probe(on_host=False, own_kernel=True)
def visible_processes(attempts: Attempts) -> None:
    """Each process that is seen must be in our own namespace, and in no other besides."""
    namespace = os.readlink("/proc/self/ns/pid")
    for number in _own():
        try:
            found = os.readlink(f"/proc/{number}/ns/pid")
        except FileNotFoundError:
            continue
        except PermissionError:
            if number == 1:  # the init lets nobody look; a pid namespace has one
                attempts.refused("the init's namespace")
                continue
            found = ""
        if found != namespace:
            attempts.reached(f"process {number} is of {found or 'a namespace that we may not see'}")
    attempts.refused(f"{len(_own())} processes, all our own")


@probe(on_host=False)
def signals_to_others(attempts: Attempts) -> None:
    reached = 0
    for number in _strangers(attempts):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            continue
        except PermissionError:
            pass
        if number not in _own() and (number in attempts.around.pids or not Path(f"/proc/{number}").exists()):
            reached += _is_no_thread_of_ours(number)
    (attempts.reached if reached else attempts.refused)(f"{reached} processes of others")


def _is_no_thread_of_ours(number: int) -> int:
    return int(not any(Path(f"/proc/{process}/task/{number}").exists() for process in _own()))


@probe()
def tracing_others(attempts: Attempts) -> None:
    for number in attempts.around.pids:
        attempts.denied(f"ptrace {number}", partial(_seize, number))


def _seize(number: int) -> int:
    call("ptrace", PTRACE_SEIZE, number, 0, 0)
    return number


@probe()
def memory_of_others(attempts: Attempts) -> None:
    """Reading the memory of a process whose address space is known: that of the same interpreter is much like ours."""
    buffer = ctypes.create_string_buffer(16)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 16)
    remote = (ctypes.c_size_t * 2)(1, 16)
    for number in attempts.around.pids:
        try:
            call("process_vm_readv", number, local, 1, remote, 1, 0)
        except OSError as error:
            # EFAULT means that the process was found, and only the address was wrong.
            (attempts.reached if error.errno == 14 else attempts.refused)(f"process_vm_readv {number}: {error}")
        else:
            attempts.reached(f"process_vm_readv {number}")
        for name in ("mem", "maps", "environ", "stack"):
            attempts.finds(f"/proc/{number}/{name}", partial(_some, f"/proc/{number}/{name}"))


def _some(path: str) -> bytes:
    with Path(path).open("rb", buffering=0) as file:
        return file.read(64) or b"it could be opened"


@probe()
def descriptors_of_others(attempts: Attempts) -> None:
    for number in attempts.around.pids:
        attempts.denied(f"pidfd_open {number}", partial(call, "pidfd_open", number, 0))
    attempts.denied("pidfd_getfd", partial(_take_descriptor, attempts.around.pids))


def _take_descriptor(pids: list[int]) -> int:
    for number in pids:
        handle = call("pidfd_open", number, 0)
        return call("pidfd_getfd", handle, 0, 0)
    return 0


@probe()
def roots_of_others(attempts: Attempts) -> None:
    """The files of the host by way of the root, the working directory or a descriptor of any process that is seen."""
    for number in _own() | set(attempts.around.pids):
        for name in ("root", "cwd"):
            for canary in attempts.around.files:
                attempts.finds(f"/proc/{number}/{name}{canary}", partial(_some, f"/proc/{number}/{name}{canary}"))


@probe(on_host=False)
def descriptors_of_the_init(attempts: Attempts) -> None:
    """What the container was started with: pipes and the harmless devices, no directory and no socket of the host."""
    for number in (1, os.getpid()):
        try:
            entries = os.listdir(f"/proc/{number}/fd")
        except PermissionError as error:
            attempts.refused(f"those of {number}: {error}")
            continue
        for entry in entries:
            try:
                target = os.readlink(f"/proc/{number}/fd/{entry}")
                mode = os.stat(f"/proc/{number}/fd/{entry}").st_mode
            except OSError:
                continue
            if number == 1 and (stat.S_ISDIR(mode) or stat.S_ISSOCK(mode)):  # it could be seen, and so taken by pidfd_getfd
                attempts.reached(f"descriptor {entry} of {number} is {target}")
            if stat.S_ISDIR(mode):
                for canary in attempts.around.files:
                    for up in ("", "../" * 12):
                        path = f"/proc/{number}/fd/{entry}/{up}{canary.lstrip('/')}"
                        attempts.finds(path, partial(_some, path))
            attempts.refused(f"{entry} of {number}: {target}")


@probe(on_host=False)
def variables_of_the_platform(attempts: Attempts) -> None:
    """What the platform was started with is in nobody's environment here."""
    for number in _own():
        try:
            text = Path(f"/proc/{number}/environ").read_text(errors="replace")
        except OSError:
            continue
        for name in attempts.around.variables:
            (attempts.reached if name in text else attempts.refused)(f"{name} in {number}")


@probe(on_host=False, own_kernel=True)
def the_init_itself(attempts: Attempts) -> None:
    """Ending, stopping or tracing the first process from inside."""
    for number in (signal.SIGKILL, signal.SIGSTOP):
        os.kill(1, number)  # the kernel drops them
    state = Path("/proc/1/stat").read_text().rsplit(")", 1)[1].split()[0]
    (attempts.reached if state in "TtZX" else attempts.refused)(f"its state is {state}")
    for path in ("/proc/1/exe", "/__pilotlight/init"):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            attempts.denied(f"open {path} for writing", partial(os.open, path, flags))
    attempts.denied("by a descriptor", _open_again)
    attempts.denied("change its mode", partial(os.chmod, "/__pilotlight/init", 0o4777))
    attempts.denied("put something in its place", partial(os.rename, "/bin/sh", "/__pilotlight/init"))


def _open_again() -> int:
    descriptor = os.open("/proc/1/exe", os.O_PATH)
    return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)


@probe(on_host=False)
def capabilities(attempts: Attempts) -> None:
    """More than the ordinary ones."""
    held = {line.split(":")[0]: line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:3] == "Cap"}
    for name, value in held.items():
        extra = int(value, 16) & ~ORDINARY
        (attempts.reached if extra else attempts.refused)(f"{name} {value}")
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    (attempts.refused if libc.capset(header, data) < 0 else attempts.reached)("all of them by capset")
    raised = libc.prctl(PR_CAP_AMBIENT, 2, SYS_ADMIN, 0, 0)
    (attempts.refused if raised < 0 else attempts.reached)("SYS_ADMIN as an ambient one")


@probe(on_host=False, own_kernel=True)
def filters(attempts: Attempts) -> None:
    """The filter of calls is on, no program can gain rights, and neither can be taken back."""
    status = Path("/proc/self/status").read_text()
    for wanted in ("NoNewPrivs:\t1", "Seccomp:\t2"):
        (attempts.refused if wanted in status else attempts.reached)(f"{wanted!r} in status")
    (attempts.refused if libc.prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) < 0 else attempts.reached)("new privileges again")
    (attempts.refused if libc.prctl(22, 0, 0, 0, 0) < 0 else attempts.reached)("no seccomp again")


def _own_copy(place: str) -> str:
    """A program of ours that prints who it runs as, and with which capabilities."""
    path = f"{place}/escape-cat"
    shutil.copy(shutil.which("cat") or "/bin/cat", path)
    return path


def _as_nobody(path: str) -> dict[str, str]:
    """The status of the program when an ordinary user starts it."""
    done = subprocess.run(
        [path, "/proc/self/status"], user=SOME_USER, group=SOME_USER, extra_groups=[], capture_output=True, text=True, check=False
    )
    return dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)


@probe()
def set_user_id(attempts: Attempts) -> None:
    """A set-uid file of root, on a layer and on a volume, started by an ordinary user."""
    for place in ("/tmp", "/var/tmp", "/usr/local/bin", attempts.around.volume or "/opt"):
        path = _own_copy(place)
        try:
            os.chmod(path, 0o6755)
            status = _as_nobody(path)
        except OSError as error:
            attempts.refused(f"{path}: {error}")
            continue
        finally:
            os.unlink(path)
        ids = f"{status.get('Uid', '')} {status.get('Gid', '')}".split()
        (attempts.reached if "0" in ids else attempts.refused)(f"{path} ran as {ids}")


@probe()
def file_capabilities(attempts: Attempts) -> None:
    """A file that grants capabilities, started by an ordinary user."""
    everything = 0xFFFFFFFF
    for place in ("/tmp", "/usr/local/bin", attempts.around.volume or "/opt"):
        path = _own_copy(place)
        try:
            os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, everything, 0, everything, 0))
            held = _as_nobody(path).get("CapEff", "0")
        except OSError as error:
            attempts.refused(f"{path}: {error}")
            continue
        finally:
            os.unlink(path)
        (attempts.reached if int(held, 16) else attempts.refused)(f"{path} ran with {held}")


@probe(on_host=False, own_kernel=True)
def other_users(attempts: Attempts) -> None:
    """Ids that are nobody's here, but somebody's outside."""
    for number in (65_536, 70_000, 100_000, 165_536, 4_294_967_294):
        attempts.denied(f"become {number}", partial(_become, number))
        attempts.denied(f"give a file to {number}", partial(_give, number))
    for name in ("uid_map", "gid_map", "setgroups"):
        attempts.denied(f"change {name}", partial(_write, f"/proc/self/{name}", "0 0 4294967295\n"))
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, count = map(int, line.split())
        # Seen from a namespace within another, the map tells of that one.
        real = count > 65_536
        (attempts.reached if real else attempts.refused)(f"map {inside} {outside} {count}")


def _become(number: int) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(number, number, number)
        except (OSError, OverflowError):
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise PermissionError(1, "refused")


def _give(number: int) -> None:
    path = Path("/tmp/escape-given")
    path.touch()
    try:
        os.chown(path, number, number)
    finally:
        path.unlink()


def _write(path: str, text: str) -> int:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        return os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


@probe(on_host=False)
def core_dumps(attempts: Attempts) -> None:
    """A crash makes the kernel write a file, or start a program outside that reads what we say."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        os.chdir("/tmp")
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(0)
    dumped = os.WCOREDUMP(os.waitpid(child, 0)[1])
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip() if Path("/proc/sys/kernel/core_pattern").exists() else ""
    if dumped and pattern.startswith("|"):
        attempts.reached(f"the machine's {pattern} was started with our memory")
    for left in Path("/tmp").glob("core*"):
        left.unlink()
    attempts.refused(f"dumped {dumped}, pattern {pattern!r}")


@probe()
def shared_memory_and_queues(attempts: Attempts) -> None:
    """System V segments, and POSIX objects in /dev/shm and /dev/mqueue, of the host or of another container."""
    for key in attempts.around.message_keys:
        found = libc.shmget(key, 0, 0)
        (attempts.reached if found >= 0 else attempts.refused)(f"shared memory {key}")
    for place in ("/dev/shm", "/dev/mqueue"):
        names = [name for name in os.listdir(place) if "canary" in name] if Path(place).is_dir() else []
        (attempts.reached if names else attempts.refused)(f"{place}: {names}")
