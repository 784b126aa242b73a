"""The platform under test, seen from outside: started, asked for its processes, ended in one instant.

Nothing is signalled but processes of this platform: each is opened first (a pidfd) and then looked at, so that a number that has
gone to another process meanwhile does no harm.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pilotlight.config import Settings
from pilotlight.supervisor import leftovers
from pilotlight.supervisor.watch import PROCESSES_FILE
from tests.chaos.clock import Clock
from tests.chaos.disk import Disk

BIN = Path(sys.executable).parent
COMMAND_TIMEOUT_S = 120.0
GONE_WAIT_S = 20.0  # for a mount to be let go of by all namespaces
STILL_S = 0.1  # for processes to be where a signal has stopped them
CONTROLLER = "pids"  # whose groups name the processes of containers; v1 and v2 alike
AHEAD_OF_USE = re.compile(r"(template|spare)-\d+")  # groups of what a node keeps ready, whoever asks
_PIDFD_GETFD = 438  # asm-generic/unistd.h
_CONNECTED = "03"  # SS_CONNECTED in /proc/net/unix

_libc = ctypes.CDLL(None, use_errno=True)


class PlatformFailed(Exception):
    """A command of the platform failed, where it had to succeed."""


@dataclass
class Target:
    """A platform. `up_options` say where it listens, so that clients find it again."""

    settings: Settings
    up_options: Sequence[str]
    disk: Disk | None = None
    clock: Clock | None = None

    def command(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Output of a command of ours; raises PlatformFailed with what it said."""
        command = [str(BIN / "pilotlight"), *arguments, "--state", str(self.settings.state)]
        variables = os.environ | dict(environment or {})
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False, cwd="/"
        )
        if done.returncode:
            raise PlatformFailed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def up(self, **variables: str) -> None:
        """Start it; returns when it serves."""
        preloaded = self.clock.environment if self.clock else {}
        self.command("up", "--detach", *self.up_options, environment={**preloaded, **variables})

    def down(self) -> None:
        self.command("down")

    def client_environment(self) -> dict[str, str]:
        """Variables for a stock client: those that people are told to evaluate, and no profile of the caller's."""
        found = dict(re.findall(r"^export (\w+)='?([^'\n]*)'?$", self.command("env"), re.MULTILINE))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
        return kept | found | {"MODAL_CONFIG_PATH": str(self.settings.state / "no-profile.toml")}

    # ---- processes ----

    def pids(self) -> dict[str, int]:
        """Role → process, of those that run now."""
        try:
            document = json.loads((self.settings.run_dir / PROCESSES_FILE).read_text())
        except FileNotFoundError:
            return {}
        return {role: pid for role, pid in document.items() if pid}

    def open_process(self, role: str) -> int | None:
        """A pidfd of that process, or None while there is none."""
        pid = self.pids().get(role)
        opened = leftovers.open_process(pid) if pid else None
        if opened is None or pid in leftovers.processes_of(self.settings):
            return opened
        os.close(opened)
        return None

    def containers(self) -> dict[str, list[int]]:
        """Group → processes, of the containers and build steps that run now; by name."""
        found: dict[str, list[int]] = {}
        for group in self._groups():
            for name in sorted(next(os.walk(group), ("", [], []))[1]):
                directory = group / name
                with suppress(OSError):  # it ends right now
                    if pids := [int(line) for file in directory.rglob("cgroup.procs") for line in file.read_text().split()]:
                        found[directory.name] = pids
        return found

    def is_idle(self) -> bool:
        """Whether no function and no build step runs."""
        return all(AHEAD_OF_USE.fullmatch(name) for name in self.containers())

    def _groups(self) -> list[Path]:
        root = Path("/sys/fs/cgroup")
        return groups_below(root / CONTROLLER, self.settings.instance) or groups_below(root, self.settings.instance)

    def kill(self, pids: Sequence[int]) -> None:
        """End processes of this platform at once, and wait until they are gone."""
        pidfds = [fd for pid in pids if (fd := leftovers.open_process(pid)) is not None]
        try:
            for fd in pidfds:
                send(fd, signal.SIGKILL)
            leftovers.end_opened(pidfds, grace_s=GONE_WAIT_S)
        finally:
            for fd in pidfds:
                os.close(fd)

    def all_pids(self) -> list[int]:
        """The supervisor, its processes and those of all containers."""
        supervisor = [pid for role, pid in self.pids().items() if role == "supervisor" and _is_pilotlight(pid)]
        inside = [pid for pids in self.containers().values() for pid in pids]
        return [*supervisor, *leftovers.processes_of(self.settings), *inside]

    def kill_all(self) -> None:
        """End them all, as when somebody kills them, or the power goes."""
        self.kill(self.all_pids())
        self.kill(self.all_pids())  # what was forked in that instant

    def lose_power(self) -> None:
        """Nothing reaches the disk any more, and everything ends; then the disk is there again, and what lived in memory is not.

        Processes are held still first: a sync that is under way in the very instant of ext4's shutdown may be told that it has
        succeeded, and nobody must get to say so.
        """
        assert self.disk is not None
        self.disk.thaw()
        for pid in self.all_pids():
            if (opened := leftovers.open_process(pid)) is not None:
                send(opened, signal.SIGSTOP)
                os.close(opened)
        time.sleep(STILL_S)
        self.disk.cut_power()
        self.kill_all()
        leftovers.remove_run_dir(self.settings)
        shutil.rmtree(self.settings.run_dir, ignore_errors=True)
        self.disk.come_back()

    # ---- the stream of the node ----

    def cut_stream(self) -> int:
        """End the connections of nodes to the server, as a network would; how many there were."""
        server = self.open_process("server")
        if server is None:
            return 0
        try:
            inodes = _connected(self.settings.nodes_socket_path)
            return sum(_shut_down(server, fd) for fd, inode in _sockets_of(self.pids().get("server", 0)) if inode in inodes)
        finally:
            os.close(server)


def _is_pilotlight(pid: int) -> bool:
    with suppress(OSError):
        return b"pilotlight" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def send(pidfd: int, number: int) -> bool:
    """Signal a process; False if it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def _connected(path: Path) -> set[str]:
    """Inodes of the connected sockets of a unix listener."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {row[6] for row in rows if len(row) == 8 and row[7] == str(path) and row[5] == _CONNECTED}


def _sockets_of(pid: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                    found.append((int(entry.name), match[1]))
    return found


def _shut_down(pidfd: int, fd: int) -> bool:
    """Shut down a socket of another process (pidfd_getfd(2))."""
    copy = _libc.syscall(_PIDFD_GETFD, pidfd, fd, 0)
    if copy < 0:
        return False
    with socket.socket(fileno=copy) as stream, suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
        return True
    return False


def groups_below(root: Path, instance: str) -> list[Path]:
    """Control groups of a platform. Those of others come and go meanwhile: os.walk does not mind."""
    name = f"pilotlight-{instance}"
    return [Path(directory, name) for directory, below, _ in os.walk(root) if name in below]


def free_address() -> str:
    """A loopback address whose port nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def wait_for(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """Look again and again until it is so; raises PlatformFailed after the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise PlatformFailed(f"not within {limit_s:.0f} s: {what}")
        time.sleep(0.1)
