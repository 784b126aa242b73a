"""A platform for all tests that run real containers, and the stock clients to speak to it.

It lives in a new directory and leaves nothing on the machine when the tests are done, which is asserted. For those who run these
tests often, PILOTLIGHT_E2E_STATE names a state directory to be kept with all its built images.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pilotlight.config import SETTINGS_FILE, Settings

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
PROGRAMS = HERE / "programs"
CLIENTS = {"newest": Path(sys.executable).parent, "oldest": REPOSITORY / ".venv-oldest" / "bin"}
FIRST_BUILD_S = 600.0  # a Debian base, pip, the client and its dependencies
DEADLINE_S = 240.0  # a bound for what hangs; a busy machine may take its time


@dataclass(frozen=True)
class Finished:
    """A program that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Program:
    """A program that runs; `until` waits for a text in what it prints."""

    def __init__(self, command: list[str], environment: Mapping[str, str], deadline_s: float) -> None:
        self._process = subprocess.Popen(
            command, env=dict(environment), cwd=PROGRAMS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._texts = {"out": "", "err": ""}
        self._changed = threading.Condition()
        self._deadline = threading.Timer(deadline_s, self._process.kill)
        self._deadline.start()
        self._readers = [
            threading.Thread(target=self._read, args=("out", self._process.stdout), daemon=True),
            threading.Thread(target=self._read, args=("err", self._process.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, pipe: Any) -> None:
        with pipe:
            for line in pipe:
                with self._changed:
                    self._texts[name] += line
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def text(self) -> str:
        return self._texts["out"] + self._texts["err"]

    def until(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text so many times; fails if it ends before."""
        with self._changed:
            while self.text.count(text) < times:
                alive = any(reader.is_alive() for reader in self._readers)
                assert self._changed.wait(1.0) or alive, f"it ended without saying {text!r}:\n{self.text}"

    def until_watching(self) -> None:
        """Wait until the kernel tells it of changed files: a client says that it watches before it does."""
        while not any(b"inotify wd:" in content(path) for path in Path(f"/proc/{self._process.pid}/fdinfo").iterdir()):
            assert self._process.poll() is None, f"it ended:\n{self.text}"
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> Finished:
        """Wait for its end."""
        code = self._process.wait()
        self._deadline.cancel()
        for reader in self._readers:
            reader.join()
        assert code != -signal.SIGKILL, f"it was killed, by its deadline or by the test:\n{self.text[-8000:]}"
        return Finished(code, self._texts["out"], self._texts["err"])

    def kill(self) -> None:
        """End it without a word, if it still runs."""
        self._deadline.cancel()
        self._process.kill()
        self._process.wait()


def content(path: Path) -> bytes:
    """What is in a file; nothing if it is gone meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def cgroups(prefix: str) -> list[Path]:
    """Groups of processes whose names begin so. Others go while we look: a walk does not mind, a glob does."""
    return [Path(parent, name) for parent, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(prefix)]


@dataclass(frozen=True)
class Platform:
    """A running platform."""

    settings: Settings
    environment: Mapping[str, str]  # what a client of it needs, and nothing else of the caller's
    up_options: Sequence[str] = ()  # with which it was started, and is there again as it was

    def control(self, *args: str) -> str:
        """Output of the command line of ours; fails if it fails."""
        return _pilotlight(*args, "--state", str(self.settings.state))

    def status(self) -> dict[str, Any]:
        return json.loads(self.control("status", "--json"))

    @property
    def web_port(self) -> int:
        """Where HTTP is served."""
        return Settings.load(self.settings.run_dir / SETTINGS_FILE).web_port

    def pid(self, process: str) -> int:
        return self.status()["processes"][process]

    def kill(self, process: str) -> None:
        """End one of its processes as a crash does; the supervisor starts another."""
        self.aim(process)()

    def aim(self, process: str) -> Callable[[], None]:
        """What kills the process as it is now, at once: to ask which it is takes time in which much can end."""
        pid = self.pid(process)
        return lambda: os.kill(pid, signal.SIGKILL)

    def start(self, *args: str, client: str = "newest", deadline_s: float = DEADLINE_S, **variables: str) -> Program:
        """Start the interpreter of a client with these arguments (`"-c", code`, a program's name, `"-m", "modal", …`)."""
        python = CLIENTS[client] / "python"
        if not python.exists():
            pytest.skip(f"{python} is missing: make environment-oldest")
        environment = {**self.environment, "PATH": f"{CLIENTS[client]}:{self.environment['PATH']}", **variables}
        return Program([str(python), *args], environment, deadline_s)

    def run(self, *args: str, client: str = "newest", deadline_s: float = DEADLINE_S) -> Finished:
        """`start`, and wait for its end, which must be a good one."""
        finished = self.try_run(*args, client=client, deadline_s=deadline_s)
        assert finished.code == 0, f"{args} ended with {finished.code}:\n{finished.text[-8000:]}"
        return finished

    def try_run(self, *args: str, client: str = "newest", deadline_s: float = DEADLINE_S) -> Finished:
        """As `run`, with any end."""
        return self.start(*args, client=client, deadline_s=deadline_s).end()

    def modal(self, *args: str, client: str = "newest", deadline_s: float = DEADLINE_S) -> Finished:
        """A command of the stock command line."""
        return self.run("-m", "modal", *args, client=client, deadline_s=deadline_s)


def _pilotlight(*args: str) -> str:
    command = [str(CLIENTS["newest"] / "pilotlight"), *args]
    local = {"PILOTLIGHT_BUCKET_ALLOW_LOCAL": "1"}  # the store of the tests is on this machine
    done = subprocess.run(command, env=os.environ | local, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, f"pilotlight {' '.join(args)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def _environment(state: Path) -> dict[str, str]:
    """Variables for a client: the exports that people are told to evaluate, and a home without a profile."""
    lines = _pilotlight("env", "--state", str(state)).splitlines()
    exports = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    exports = {name: value.strip("'\"") for name, value in exports.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    ours = {
        "MODAL_CONFIG_PATH": str(state / "no-profile.toml"),
        "MODAL_LOGS_TIMEOUT": str(DEADLINE_S),  # a client whose program is done waits so long for the last lines of containers
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
    }
    return {**kept, **exports, **ours}


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """One platform for all tests, with an image built."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("crun", "mmdebstrap", "nft"))):
        pytest.skip("needs root, crun, mmdebstrap and nft")
    kept = os.environ.get("PILOTLIGHT_E2E_STATE")
    state = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="pilotlight-e2e-")) / "state"
    try:
        options = ("--api", _free_address(), "--web", _free_address(), "--gpus", "A10G:2")
        _pilotlight("up", "--detach", "--state", str(state), *options)
        try:
            running = Platform(Settings(state=state), _environment(state), options)
            running.modal("run", str(REPOSITORY / "examples" / "hello.py"), deadline_s=FIRST_BUILD_S)
            yield running
        finally:
            _pilotlight("down", "--state", str(state))
        assert not any(traces(running.settings).values()), traces(running.settings)
    finally:
        if not kept:
            shutil.rmtree(state.parent, ignore_errors=True)


def traces(settings: Settings) -> dict[str, list[str]]:
    """All that a platform could leave on a machine."""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
    marks = (settings.instance, str(settings.state))
    return {
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if any(mark in line for mark in marks)],
        "interfaces": [name for _, name in socket.if_nameindex() if settings.instance in name],
        "cgroups": [str(path) for path in cgroups(f"pilotlight-{settings.instance}")],
        "tables": [line for line in tables if settings.instance in line],
        "processes": _processes(marks),
        "run directory": [str(settings.run_dir)] if settings.run_dir.exists() else [],
    }


def _processes(marks: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(entry.name) != os.getpid() and any(mark in command for mark in marks):
            found.append(f"{entry.name}: {command}")
    return found


@pytest.fixture
def checks(platform: Platform, subtests: Any) -> Callable[..., None]:
    """Runs a program of checks, and reports each of its checks as a subtest."""

    def run(program: str, client: str = "newest", deadline_s: float = DEADLINE_S) -> None:
        finished = platform.try_run("checks.py", program, client=client, deadline_s=deadline_s)
        results = [json.loads(line) for line in finished.out.splitlines() if line.startswith('{"check"')]
        assert results and finished.code == 0, f"{program} ended with {finished.code}:\n{finished.text[-8000:]}"
        for result in results:
            with subtests.test(result["check"]):
                assert result["error"] is None, result["error"]

    return run
