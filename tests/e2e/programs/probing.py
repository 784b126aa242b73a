"""What `probe.py` looks at inside a container. Standard library, and numpy where it is."""

# ruff: noqa: BLE001, PTH109, PTH112, PTH115, PTH208 (what lies in /proc is read as the kernel shows it; a check may fail as it likes)

import asyncio
import atexit
import ctypes
import decimal
import faulthandler
import fcntl
import gc
import hashlib
import locale
import logging
import multiprocessing
import os
import random
import re
import resource
import secrets
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
STATUS = (
    *("Name", "Umask", "State", "TracerPid", "Uid", "Gid", "Groups", "NStgid", "NSpid", "NSpgid", "NSsid", "Kthread"),
    *("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"),
    *("Seccomp_filters", "Speculation_Store_Bypass", "SpeculationIndirectBranch", "Cpus_allowed", "Mems_allowed_list"),
)
OWN_VARIABLES = {"MODAL_TASK_ID", "PYTHON_OF_ITS_OWN"}  # that name the container, or ask for the ordinary way
PRCTLS = {"pdeathsig": 2, "dumpable": 3, "keep capabilities": 7, "securebits": 27, "timer slack": 30, "subreaper": 37}


def is_warm() -> bool:
    """Whether this container was forked: its first process runs the image's Python, and not the platform's init."""
    return _link("/proc/1/exe") != "/__pilotlight/init"


def seen() -> dict[str, Any]:
    """All of it, by name."""
    parts = (_process, _identity, _signals, _descriptors, _interpreter, _modules, _state_of_modules, _mounts, _files, _neighbours)
    found: dict[str, Any] = {}
    for part in parts:
        found |= part()
    return found


def _own(text: str) -> str:
    text = text.replace(os.environ["MODAL_TASK_ID"], "TASK").replace(socket.gethostname(), "TASK")
    return text.replace("PYTHON_OF_ITS_OWN=1\n", "").replace("PYTHON_OF_ITS_OWN=1\0", "")


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        return type(error).__name__


# ---- what the kernel says ----


def _process() -> dict[str, Any]:
    lines = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    found: dict[str, Any] = {f"status {name}": lines.get(name, "").strip() for name in STATUS}
    kinds = sorted(os.listdir("/proc/self/ns"))
    found["namespaces as those of pid 1"] = [_link(f"/proc/1/ns/{kind}") == _link(f"/proc/self/ns/{kind}") for kind in kinds]
    found["namespaces that are the kernel's first"] = [
        kind for kind in sorted(os.listdir("/proc/self/ns")) if re.search(r"\[40265318\d\d\]", os.readlink(f"/proc/self/ns/{kind}"))
    ]
    for name in (
        "limits",
        "cgroup",
        "oom_score_adj",
        "coredump_filter",
        "personality",
        "timerslack_ns",
        "uid_map",
        "gid_map",
        "setgroups",
    ):
        path = Path("/proc/self", name)
        found[f"/proc/self/{name}"] = path.read_text() if path.exists() else None
    for name, number in PRCTLS.items():
        value = ctypes.c_int(0)
        result = libc.prctl(number, ctypes.byref(value)) if number in (2, 37) else libc.prctl(number, 0, 0, 0, 0)
        found[f"prctl {name}"] = value.value if number in (2, 37) else result
    found["/proc/self/environ"] = sorted(_own(Path("/proc/self/environ").read_text(errors="replace")).split("\0"))
    found["/proc/self/cmdline"] = Path("/proc/self/cmdline").read_text().split("\0")
    found["/proc/self/exe"] = os.readlink("/proc/self/exe")
    found["/proc/self/root, cwd"] = [os.readlink("/proc/self/root"), os.readlink("/proc/self/cwd")]
    return found


def _identity() -> dict[str, Any]:
    return {
        "pid is its group's, its session's leader": [os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid()],
        "pids": [os.getpid(), os.getppid()],
        "hostname is the task's id": socket.gethostname() == os.environ["MODAL_TASK_ID"],
        "uname": [part for part in os.uname() if part != socket.gethostname()],
        "umask": _umask(),
        "nice": os.nice(0),
        "scheduling": [os.sched_getscheduler(0), sorted(os.sched_getaffinity(0))],
        "cwd": os.getcwd(),
        "limits by resource": {
            name: resource.getrlimit(getattr(resource, name)) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")
        },
        "CPU time is its own": time.process_time() < 5 and resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime < 5,
        "threads": len(os.listdir("/proc/self/task")),
        "time zone": [time.tzname, time.timezone, time.strftime("%H:%M %Z", time.localtime(0))],
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _signals() -> dict[str, Any]:
    def shown(handler: Any) -> str:
        return handler.name if isinstance(handler, signal.Handlers) else getattr(handler, "__qualname__", repr(type(handler)))

    return {
        "signal handlers": {signal.Signals(n).name: shown(signal.getsignal(n)) for n in signal.Signals},
        "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timers": [signal.getitimer(kind) for kind in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)],
    }


def _descriptors() -> dict[str, Any]:
    kinds: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
        kinds[int(name)] = re.sub(r":\[\d+\]", "", target)
    flags = {number: fcntl.fcntl(number, fcntl.F_GETFL) & ~os.O_NONBLOCK for number in range(3)}
    return {
        "descriptors by kind": sorted(kind for kind in kinds.values() if not kind.startswith("/proc/")),
        "standard descriptors": [kinds.get(number) for number in range(3)],
        "their flags": flags,
        "their owners": [[os.fstat(number).st_uid, stat.S_IMODE(os.fstat(number).st_mode)] for number in range(3)],
        "inheritable descriptors": [number for number in kinds if number > 2 and _is_inheritable(number)],
        "terminals": [os.isatty(number) for number in range(3)],
        "standard input": os.read(0, 1).decode(),
    }


def _is_inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


def _mounts() -> dict[str, Any]:
    found: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point, options = left.split()[4:6]
        kind, source, super_options = right.split(" ", 2)
        tags = [re.sub(r":\d+", "", tag) for tag in left.split()[6:]]
        shown = re.sub(r"(lowerdir\+?|upperdir|workdir|size|nr_inodes|uid|gid|lowerdir)=[^,]*", r"\1", super_options)
        found.append(_own(f"{point} {options} {tags} {kind} {shown} {source if source.startswith('/') else ''}"))
    return {"mounts": sorted(found)}


def _files() -> dict[str, Any]:
    def entries(directory: str) -> list[str]:
        return sorted(f"{entry.name} {stat.filemode(entry.stat(follow_symlinks=False).st_mode)}" for entry in os.scandir(directory))

    places = {place: entries(place) for place in ("/", "/dev", "/dev/shm", "/dev/pts", "/tmp", "/run", "/__pilotlight")}
    return {f"files in {place}": names for place, names in places.items()} | {
        "/etc/hosts": re.sub(r"10\.\d+\.\d+\.\d+", "IP", _own(Path("/etc/hosts").read_text())),
        "/etc/hostname": _own(Path("/etc/hostname").read_text()),
        "/etc/resolv.conf": Path("/etc/resolv.conf").read_text(),
        "masked files": [_readable(path) for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")],
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "sysctls": {
            name: _readable(f"/proc/sys/{name}") for name in ("net/ipv4/ping_group_range", "net/ipv4/ip_unprivileged_port_start")
        },
        "devices that open": [name for name in ("null", "zero", "full", "random", "urandom", "tty") if _opens(f"/dev/{name}")],
    }


def _readable(path: str) -> str:
    try:
        return f"{len(os.listdir(path))} entries" if os.path.isdir(path) else Path(path).read_bytes()[:64].decode(errors="replace")
    except OSError as error:
        return type(error).__name__


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def _neighbours() -> dict[str, Any]:
    """The processes of the container, and what a program that is started finds."""
    command = [
        "sh",
        "-c",
        "grep -E '^(Cap|NoNew|Seccomp|SigIgn|SigBlk|Umask)' /proc/self/status; env | sort; ls -l /proc/self/fd | wc -l",
    ]
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return {
        "processes": len(pids),
        "name of pid 1": Path("/proc/1/comm").read_text().strip(),
        "command of pid 1": Path("/proc/1/cmdline").read_text().split("\0"),
        "a program started": _own(subprocess.run(command, capture_output=True, text=True, check=True).stdout),
    }


# ---- what the interpreter says ----


def _interpreter() -> dict[str, Any]:
    main = sys.modules["__main__"]
    return {
        "argv": sys.argv,
        "orig_argv": getattr(sys, "orig_argv", None),
        "path": sys.path,
        "path hooks": [getattr(hook, "__qualname__", repr(hook)) for hook in sys.path_hooks],
        "meta path": [getattr(finder, "__qualname__", type(finder).__qualname__) for finder in sys.meta_path],
        "prefixes": [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.executable],
        "flags": repr(sys.flags),
        "options": [repr(sys.warnoptions), repr(sys._xoptions), sys.dont_write_bytecode, sys.pycache_prefix],
        "limits of the interpreter": [sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()],
        "encodings": [
            sys.getfilesystemencoding(),
            sys.getdefaultencoding(),
            locale.getpreferredencoding(),
            sys.getfilesystemencodeerrors(),
        ],
        "streams": [
            [stream.encoding, stream.errors, stream.line_buffering, stream.write_through, stream.name]
            for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__)
            if stream is not None
        ],
        "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__, sys.gettrace(), sys.getprofile()],
        "__main__": [main.__name__, getattr(main, "__file__", None), getattr(main.__spec__, "name", None), main.__package__],
        "locale": [locale.setlocale(locale.LC_ALL), os.environ.get("LANG")],
        "environment": {name: _own(value) for name, value in sorted(os.environ.items()) if name not in OWN_VARIABLES},
        "environment of C": _getenv("PROBE_SECRET"),
        "hash randomisation": sys.flags.hash_randomization,
        "main thread": [threading.main_thread().name, threading.main_thread().native_id == os.getpid()],
    }


def _getenv(name: str) -> str:
    getenv = libc.getenv
    getenv.restype = ctypes.c_char_p
    return (getenv(name.encode()) or b"").decode()


def _modules() -> dict[str, Any]:
    return {"modules": sorted(sys.modules)}


def _state_of_modules() -> dict[str, Any]:
    process = multiprocessing.current_process()
    began = logging._startTime if isinstance(logging._startTime, float) else logging._startTime / 1e9  # type: ignore[attr-defined]
    return {
        "warnings": [repr(entry) for entry in warnings.filters],
        "logging": [len(logging.root.handlers), logging.root.level, logging.getLevelName(logging.getLogger("asyncio").level)],
        "logging began with the container": abs(time.time() - began) < 60,
        "decimal": repr(decimal.getcontext()),
        "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
        "collector's frozen objects": gc.get_freeze_count() > 0,
        "faulthandler": faulthandler.is_enabled(),
        "exit hooks": atexit._ncallbacks(),
        "sockets' time-out": socket.getdefaulttimeout(),
        "multiprocessing": [process.name, process.daemon, multiprocessing.get_start_method(allow_none=True), len(process.authkey)],
        "event loop's policy": type(asyncio.get_event_loop_policy()).__qualname__,
        "temporary directory": tempfile.gettempdir(),
        "children known": len(multiprocessing.active_children()),
        "threads known": sorted(thread.name for thread in threading.enumerate()),
        "hashes": sorted(hashlib.algorithms_available),
    }


# ---- what no two may have in common ----


def unique() -> dict[str, str]:
    """Values that two containers must not share."""
    found = {
        "random": repr(random.random()),
        "random.Random": repr(random.Random().random()),
        "secrets": secrets.token_hex(8),
        "os.urandom": os.urandom(8).hex(),
        "uuid4": str(uuid.uuid4()),
        "uuid1": str(uuid.uuid1()),
        "ssl": ssl.RAND_bytes(8).hex(),
        "a temporary name": tempfile.mktemp(),
        "authentication key": hashlib.sha256(bytes(multiprocessing.current_process().authkey)).hexdigest(),
        "host name": socket.gethostname(),
        "random of a child": _of_child("import random; print(random.random())"),
        "random of a fork": _of_fork(lambda: repr(random.random())),
    }
    try:
        import numpy
    except ImportError:
        return found
    generated = {"numpy.random": repr(numpy.random.random()), "numpy's default_rng": repr(numpy.random.default_rng().random())}
    return found | generated


def _of_child(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _of_fork(compute: Any) -> str:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, compute().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


# ---- what must work ----


def _square(number: int) -> int:
    return number * number


def checks() -> dict[str, Any]:
    """What came of each; equal in every container."""
    found: dict[str, Any] = {}
    for name, check in sorted(_CHECKS.items()):
        try:
            found[name] = check()
        except Exception as error:
            found[name] = repr(error)
    return found


def _multiprocessing(method: str) -> Any:
    code = (
        "import multiprocessing as m, operator\n"
        f"if __name__ == '__main__':\n with m.get_context('{method}').Pool(2) as pool: print(pool.map(operator.neg, range(4)))"
    )
    return _of_child(code)


def _forked_pool() -> Any:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(_square, range(4))


def _threads() -> Any:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(_square, range(4)))


def _orphan_is_reaped() -> Any:
    """A grandchild whose parent has ended is pid 1's: it must not stay a zombie."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        grandchild = os.fork()
        if grandchild:
            os.write(write, str(grandchild).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        orphan = int(answer.read())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{orphan}").exists():
        if time.monotonic() > deadline:
            return "left as a zombie"
        time.sleep(0.01)
    return "reaped"


def _exit_codes() -> Any:
    killed = subprocess.run(["sh", "-c", "kill -TERM $$"], check=False).returncode
    return [subprocess.run(["sh", "-c", "exit 7"], check=False).returncode, killed]


def _alarm() -> Any:
    """Signals sent to a child process reach it, and the default actions hold."""
    child = subprocess.Popen(["sleep", "100"])
    child.send_signal(signal.SIGINT)
    return child.wait(10)


def _refused() -> Any:
    found: dict[str, str] = {}
    for name, attempt in {
        "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
        "unshare a mount namespace": lambda: libc.unshare(0x20000),
        "unshare a user namespace": lambda: libc.unshare(0x10000000),
        "set the host name": lambda: libc.sethostname(b"x", 1),
        "keyctl": lambda: libc.syscall(250, 0, -3, 0),
        "bpf": lambda: libc.syscall(321, 0, 0, 0),
        "a packet socket": lambda: libc.socket(17, 3, 768),
    }.items():
        found[name] = os.strerror(ctypes.get_errno()) if attempt() < 0 else "allowed"
    return found


def _write_everywhere() -> Any:
    places = ("/tmp/probe", "/root/probe", "/var/probe", "/dev/shm/probe", "/etc/probe", "/sys/probe", "/proc/sys/kernel/hostname")
    return [place for place in places if _writes(place)]


def _writes(path: str) -> bool:
    try:
        Path(path).write_text("x")
    except OSError:
        return False
    return True


def _asynchronous() -> Any:
    async def both() -> list[int]:
        return await asyncio.gather(asyncio.sleep(0, 1), asyncio.to_thread(_square, 3))

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, both()).result()


def _arrays() -> Any:
    import numpy

    return float((numpy.ones((64, 64)) @ numpy.ones((64, 64))).sum())  # by OpenBLAS's threads


_CHECKS = {
    "multiprocessing: spawn": lambda: _multiprocessing("spawn"),
    "multiprocessing: forkserver": lambda: _multiprocessing("forkserver"),
    "multiprocessing: fork": _forked_pool,
    "threads": _threads,
    "an orphan": _orphan_is_reaped,
    "exit codes": _exit_codes,
    "a signal": _alarm,
    "what is refused": _refused,
    "what can be written": _write_everywhere,
    "asyncio": _asynchronous,
    "arrays": _arrays,
    "TLS": lambda: len(ssl.create_default_context().get_ciphers()) > 0,
}
