"""What a template runs: the image's own Python imports this file while it starts, and stays in it.

Started as any container is (`python -m modal._container_entrypoint`), the interpreter finds this `sitecustomize` before any other.
It loads the client's entrypoint and what else it was told to, says so, and waits. At the agent's word it forks a process that
becomes the first of a new container: it enters namespaces of its own, puts a file system together and takes the template's rights
off. That one forks the program's process, and remains to reap orphans and to pass signals on. The program's process returns from
here, so the interpreter goes on where it was: with `-m`, its arguments, its `__main__` and its flags, as a fresh one does.

Nothing here is trusted: image code runs in this process. What matters is checked from outside, by the agent. It runs on every
Python from 3.9 on, has one thread, and uses the standard library alone. Sources of the calls: unshare(2), setns(2), pivot_root(2),
move_mount(2), capabilities(7), seccomp(2), user_namespaces(7).
"""

from __future__ import annotations

import importlib
import os
import sys
import time

_BEGUN = time.monotonic()
_HERE = os.path.dirname(os.path.abspath(__file__))
trial = importlib.import_module("pilotlight_trial")  # from beside this file, where nothing is found any more afterwards
fresh = importlib.import_module("pilotlight_fresh")
for _name in ("pilotlight_trial", "pilotlight_fresh"):
    sys.modules.pop(_name, None)
sys.path[:] = [entry for entry in sys.path if entry != _HERE]
sys.modules.pop("sitecustomize", None)
try:  # the image's own, or the client's
    _customized = importlib.import_module("sitecustomize")
except ImportError as _error:
    if _error.name != "sitecustomize":
        raise
    _customized = None

import array  # noqa: E402
import ctypes  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
from typing import Any  # noqa: E402

ENTRYPOINT = "modal._container_entrypoint"
STAGE = "/__pilotlight/stage"
MESSAGE_BYTES = 1 << 20
MAX_FDS = 8

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 2, 4, 8, 32, 4096, 8192, 16384
MS_PRIVATE, MS_STRICTATIME = 1 << 18, 1 << 24
MNT_DETACH = 2
PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 22, 47, 4
PR_SET_DUMPABLE = 4
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES = 64
MOVE_MOUNT_F_EMPTY_PATH = 4
AT_FDCWD = -100
# (pivot_root, move_mount) by machine.
CALLS = {"x86_64": (155, 429), "aarch64": (41, 429)}

libc = ctypes.CDLL(None, use_errno=True)
loaded_names: set[str] = set()  # of modules that come from files, without what is inside of packages


def checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, what + ": " + os.strerror(number))
    return result


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    result = libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    checked(result, "mount " + (kind or source or "") + " on " + target)


def unshare(flags: int) -> None:
    checked(libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    checked(libc.setns(fd, kind), "setns")


def prctl(*numbers: int) -> int:
    return libc.prctl(*(ctypes.c_ulong(number) for number in numbers))


# ---- messages ----


def send(channel: socket.socket, **message: object) -> None:
    channel.send(json.dumps(message).encode())


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors; ends this process where nobody is at the other end any more."""
    data, ancillary, _, _ = channel.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(MAX_FDS * 4))
    if not data:
        os._exit(0)
    fds = array.array("i")
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(body[: len(body) - len(body) % 4])
    return json.loads(data), list(fds)


# ---- the template ----


def load(modules: list[str]) -> dict[str, str]:
    """Import the entrypoint, as a module that nobody has run yet, and what else is wanted; returns what could not be, and why."""
    failed: dict[str, str] = {}
    for name in (ENTRYPOINT, "runpy"):
        importlib.import_module(name)
    # The interpreter runs it as __main__ later, and says so if it finds it here.
    package, _, last = ENTRYPOINT.rpartition(".")
    sys.modules.pop(ENTRYPOINT, None)
    sys.modules[package].__dict__.pop(last, None)
    modules = [name for name in modules if name not in sys.modules and name != ENTRYPOINT]
    if not modules or not (why := trial.try_out(modules)):
        trial.import_all(modules)
        return failed
    groups: dict[str, list[str]] = {}
    for name in modules:
        groups.setdefault(name.partition(".")[0], []).append(name)
    for package, names in groups.items():
        if why := trial.try_out(names):
            failed[package] = why
        else:
            trial.import_all(names)
    return failed


def top_level_names() -> set[str]:
    """Names of what was imported from files: a file of the user by such a name would have come first."""
    found: set[str] = set()
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.origin not in (None, "built-in", "frozen"):
            found.add(name.partition(".")[0])
    return found


class Template:
    """This process, and what it keeps for its children until each is ready."""

    def __init__(self) -> None:
        # Descriptor 0 is the agent's; a program's standard input must be readable, and empty.
        self.is_one = True  # False in its children
        self.agent = socket.socket(fileno=os.dup(0))
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self.asking: dict[int, tuple[socket.socket, int]] = {}  # by descriptor: (socket, pid) of who will want its ids mapped
        self.poll = select.poll()

    def serve(self) -> None:
        """Fork at the agent's word. Returns in the program's process of each container, never in the template's own."""
        order, _ = receive(self.agent)
        with trial.ReadNames() as read:
            failed = load(order["modules"])
        loaded_names.update(top_level_names())
        gc.collect()
        gc.freeze()
        many = trial.keeps_threads()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for children here: the agent knows of their ends
        send(
            self.agent,
            ready=True,
            failed={name: why for name, why in failed.items() if not trial.was_prevented(why)},
            postponed={name: why for name, why in failed.items() if trial.was_prevented(why)},
            read=sorted(read.names),
            threads=2 if many else 1,
            modules=len(sys.modules),
            took_ms=(time.monotonic() - _BEGUN) * 1000,
        )
        self.poll.register(self.agent, select.POLLIN)
        while True:
            for fd, _ in self.poll.poll():
                if fd != self.agent.fileno():
                    self.map_ids(fd)
                    continue
                order, fds = receive(self.agent)
                if self.fork(order, fds):
                    return

    def fork(self, order: dict[str, Any], fds: list[int]) -> bool:
        """True in the program's process of the new container."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            self.is_one = False
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for ended in (self.agent, ours, *(asking for asking, _ in self.asking.values())):
                ended.detach()  # closed below, and not once more by a number that may be another's then
            channel, network = socket.socket(fileno=fds[0]), fds[1]
            close_all_but(channel.fileno(), network, theirs.fileno())
            begin_container(channel, network, theirs, order)
            return True
        theirs.close()
        for fd in fds:
            os.close(fd)
        self.asking[ours.fileno()] = (ours, pid)
        self.poll.register(ours, select.POLLIN)
        return False

    def map_ids(self, fd: int) -> None:
        """Give a child's user namespace the ids of this one: only who is in this one may."""
        asking, pid = self.asking.pop(fd)
        self.poll.unregister(fd)
        with asking:
            request = asking.recv(1)
            if not request:
                return
            for name in ("uid_map", "gid_map"):
                with open("/proc/%d/%s" % (pid, name), "w") as file:
                    file.write("0 0 65536\n")
            asking.send(request)


def close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number not in kept:
            try:
                os.close(number)
            except OSError:  # the listing's own
                pass


# ---- the first process of a container ----


def begin_container(channel: socket.socket, network: int, mapper: socket.socket, order: dict[str, Any]) -> None:
    """Make the namespaces, and in them the first process. Returns in the program's process."""
    try:
        setns(network, CLONE_NEWNET)  # it belongs to the template's user namespace
        os.close(network)
        unshare(CLONE_NEWUSER)
        mapper.send(b"m")
        if mapper.recv(1) != b"m":
            raise OSError("the template did not map the ids")
        mapper.close()
        unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC)
        if os.fork():
            os._exit(0)
        os.setsid()
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        send(channel, born=True)
        stage_devices(order)
        stage_kernel_files(order)
        send(channel, staged=True)
        touched = receive(channel)[0]  # it is in its control groups now
        unshare(CLONE_NEWCGROUP)
        signals = set(signal.valid_signals())
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = os.fork()
        if not program:
            os.setpgid(0, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            ours.close()
            be_program(channel, theirs, order, touched["program"])
            return
        theirs.close()
        code = be_init(channel, ours, order, touched["init"], program, signals)
    except BaseException as error:  # whatever it is, this process must never go on as a template
        try:
            send(channel, error=repr(error)[:500])
        finally:
            os._exit(1)
    os._exit(code)


def be_init(
    channel: socket.socket,
    go: socket.socket,
    order: dict[str, Any],
    touched: list[list[int]],
    program: int,
    signals: set[signal.Signals],
) -> int:
    """Wait for what this container becomes, put it together, hold no right any more, and see the program to its end."""
    rights = Rights(order)
    fresh.touch(libc, touched)
    send(channel, spare=True)
    plan, fds = receive(channel)
    begun = time.monotonic()
    enter_root(fds[0], plan["hostname"])
    go.sendmsg([b"g"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds[1:]))])
    go.close()
    entered = time.monotonic()
    rights.drop()
    for number in range(3):
        os.dup2(fds[1 + number], number)
    for fd in fds:
        os.close(fd)
    # The channel to the agent is for nobody else in the container to take out of this process (ptrace, pidfd_getfd).
    checked(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "keep others out of the init")
    send(channel, init=True, took_ms={"root": (entered - begun) * 1000, "rights": (time.monotonic() - entered) * 1000})
    return watch(channel, program, signals)


def stage_devices(order: dict[str, Any]) -> None:
    dev = STAGE + "/dev"
    mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(dev + "/" + name, 0o755)
    mount("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, order["pts"])
    mount("shm", dev + "/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777")
    mount("mqueue", dev + "/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV)
    for name in ("null", "zero", "full", "tty", "random", "urandom"):
        point = dev + "/" + name
        os.close(os.open(point, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        bind("/dev/" + name, point, MS_NOSUID | MS_NOEXEC)
    links = (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"))
    for name, end in links:
        os.symlink("/proc/self/fd" + end, dev + "/" + name)
    os.symlink("/proc/kcore", dev + "/core")
    os.symlink("pts/ptmx", dev + "/ptmx")


def stage_kernel_files(order: dict[str, Any]) -> None:
    mount("proc", STAGE + "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV)
    for name, value in order["user_limits"].items():  # what the kernel counts for this user namespace
        with open(STAGE + "/proc/sys/user/" + name, "w") as file:
            file.write(value)
    for path in order["read_only"]:
        if os.path.exists(STAGE + path):
            bind(STAGE + path, STAGE + path, MS_RDONLY)
    # The template's own mounts keep the flags that they have here.
    for path in order["masked"]:
        if os.path.isdir(STAGE + path):
            mount("tmpfs", STAGE + path, "tmpfs", 0, "size=0k")
            mount(None, STAGE + path, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
        elif os.path.exists(STAGE + path):
            bind("/dev/null", STAGE + path, MS_RDONLY | MS_NOSUID | MS_NOEXEC)


def bind(source: str, target: str, flags: int) -> None:
    mount(source, target, None, MS_BIND)
    mount(None, target, None, MS_REMOUNT | MS_BIND | flags)


def enter_root(tree: int, hostname: str) -> None:
    """Attach the file system, move what was staged into it, and leave everything else."""
    pivot_root, move_mount = CALLS[platform.machine()]
    root = STAGE + "/root"
    attached = libc.syscall(move_mount, tree, b"", AT_FDCWD, root.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    checked(attached, "attach the root")
    for name in ("dev", "proc"):
        if os.path.islink(root + "/" + name):
            raise OSError("/%s of the image is a link" % name)
        mount(STAGE + "/" + name, root + "/" + name, None, MS_MOVE)
    os.chdir(root)
    checked(libc.syscall(pivot_root, b".", b"."), "pivot_root")
    checked(libc.umount2(b".", MNT_DETACH), "leave the old root")
    os.chdir("/")
    name = hostname.encode()
    checked(libc.sethostname(name, len(name)), "sethostname")


class Rights:
    """What a container's processes may hold and call. Most of the way there can be gone before the last of it is wanted."""

    class Filter(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]

    def __init__(self, order: dict[str, Any]) -> None:
        kept = int(order["capabilities"])
        for number in range(CAPABILITIES):
            if not kept >> number & 1:
                prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # the kernel may know fewer
        low, high = kept & 0xFFFFFFFF, kept >> 32
        self._header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        self._sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
        program = bytes.fromhex(order["filter"])
        self._instructions = ctypes.create_string_buffer(program, len(program))
        self._filter = self.Filter(len(program) // 8, ctypes.cast(self._instructions, ctypes.c_void_p))

    def drop(self) -> None:
        """Hold no more than these capabilities, now or ever, and make no more calls than the filter lets through."""
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        checked(libc.capset(self._header, self._sets), "capset")
        mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
        checked(libc.prctl(PR_SET_SECCOMP, mode, ctypes.byref(self._filter), 0, 0), "seccomp")


def watch(channel: socket.socket, program: int, signals: set[signal.Signals]) -> int:
    """What the first process of a container does from then on: reap, pass signals on, and end with the program."""
    waited = signals - {signal.SIGKILL, signal.SIGSTOP}
    code = None
    while code is None:
        number = signal.sigwaitinfo(waited).si_signo
        if number != signal.SIGCHLD:
            try:
                os.kill(program, number)
            except ProcessLookupError:
                pass
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid == program:
                code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    try:
        send(channel, exit=code)
    except OSError:  # the agent is gone, and will sweep
        pass
    return code


# ---- the program's process ----


def be_program(channel: socket.socket, go: socket.socket, order: dict[str, Any], touched: list[list[int]]) -> None:
    """Wait until the agent has checked this process, take what it runs with, and be as a fresh interpreter would."""
    Rights(order).drop()
    fresh.freshen()
    fresh.touch(libc, touched)
    data, ancillary, _, _ = go.recvmsg(1, socket.CMSG_SPACE(3 * 4))
    if not data:
        os._exit(1)
    fds = array.array("i", ancillary[0][2])
    go.close()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    send(channel, program=True, shadowed=shadowed())
    handed, _ = receive(channel)
    channel.close()
    fresh.begin(handed["env"], handed["cwd"], handed["changed"])


def shadowed() -> list[str]:
    """Files of the user that an interpreter which began here would have imported in place of what is loaded."""
    found: list[str] = []
    for entry in os.scandir("/root"):
        stem = entry.name.partition(".")[0]
        if stem in loaded_names and (entry.name != stem or os.path.exists(entry.path + "/__init__.py")):
            found.append(entry.name)
    return found[:8]


def _main() -> None:
    template = Template()
    try:
        template.serve()
    except BaseException as error:  # whatever it is, nobody may go on from here
        try:
            if template.is_one:
                send(template.agent, error=repr(error)[:500])
            else:
                sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(1)


_main()
if _customized is None:
    raise ImportError("No module named 'sitecustomize'", name="sitecustomize")  # as it would be without this file
