"""An attacker in a container, and what it reaches: nothing that is not its own.

`programs/probes` has the attempts, `programs/escape.py` the attacker and its neighbour, `programs/floods.py` containers that take
all they can get, `programs/paths.py` a client that names paths. The suite runs for each way to start a container; what the attempts
are worth is shown by the same on the host.
"""

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import CLIENTS, FIRST_BUILD_S, PROGRAMS, Platform, _environment, _free_address, _pilotlight, traces

from pilotlight.config import SETTINGS_FILE, Settings

sys.path.insert(0, str(PROGRAMS))
import probes

pytestmark = pytest.mark.e2e

VARIABLE = "ESCAPE_CANARY"  # in the environment of the platform
ALL_FLOODS = "PILOTLIGHT_ALL_FLOODS"
ORDINARY, WARM, STRICT = "ordinary", "warm", "strict"
FLAGS = {ORDINARY: {}, WARM: {}, STRICT: {"isolation": "strict"}}
ATTACK_S, FLOODS_S, PATHS_S = 400.0, 560.0, 900.0
SHARED_MEMORY_KEY = 0x7069
PROBES = sorted(probes.load())
GVISOR = "4.4.0"  # the kernel that it says it is
MOST_FLOWS = 16_384  # of one container; the tests know the promise, not the constant


@dataclass
class Bait:
    """Things of the host that a container must not reach, and who came to them."""

    around: probes.Surroundings = field(default_factory=probes.Surroundings)
    came: list[str] = field(default_factory=list)
    directory: Path = Path()


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    """What containers must not reach."""
    with _laid("canary-of-the-host", SHARED_MEMORY_KEY) as made:
        yield made


@pytest.fixture(scope="module")
def reachable_bait() -> Iterator[Bait]:
    """The same once more, for attempts on the host itself."""
    with _laid("canary-within-reach", SHARED_MEMORY_KEY + 1) as made:
        yield made


@contextmanager
def _laid(name: str, key: int) -> Iterator[Bait]:
    """A file, a process, listeners of all kinds, shared memory."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("crun", "mmdebstrap", "nft"))):
        pytest.skip("needs root, crun, mmdebstrap and nft")
    with ExitStack() as stack:
        made = Bait(directory=Path(tempfile.mkdtemp(prefix="escape-bait-", dir="/var/tmp")))
        stack.callback(shutil.rmtree, made.directory)
        (made.directory / "canary").write_text("the host's")
        made.directory.chmod(0o755)
        sleeper = stack.enter_context(subprocess.Popen(["sleep", "3600"], env={**os.environ, VARIABLE: "1"}))
        stack.callback(sleeper.kill)
        port = _listen(stack, made, name)
        stack.callback(_remove_memory, _make_memory(key))
        made.around = probes.Surroundings(
            files=[str(made.directory / "canary")],
            pids=[sleeper.pid],
            abstract=[name],
            ports=[port],
            variables=[VARIABLE],
            message_keys=[key],
        )
        yield made


def _listen(stack: ExitStack, made: Bait, name: str) -> int:
    plain = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
    port = plain.getsockname()[1]
    datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    datagrams.bind(("0.0.0.0", port))
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind(b"\0" + name.encode())
    abstract.listen()

    def accept(listener: socket.socket) -> None:
        try:
            while True:
                door, sender = listener.accept()
                door.close()
                made.came.append(f"a connection from {sender!r}")
        except OSError:
            return  # it is closed

    def receive() -> None:
        try:
            while True:
                data, sender = datagrams.recvfrom(100)
                if data:
                    made.came.append(f"a datagram from {sender}")
        except OSError:
            return

    for target, arguments in ((accept, (plain,)), (accept, (abstract,)), (receive, ())):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    return port


def _make_memory(key: int) -> int:
    made = ctypes.CDLL(None).shmget(key, 4096, 0o1666)
    assert made >= 0
    return made


def _remove_memory(number: int) -> None:
    assert ctypes.CDLL(None).shmctl(number, 0, None) == 0  # IPC_RMID


def _variables(mode: str) -> dict[str, str]:
    """How a platform is told to start containers in that way."""
    if "warm_starts" not in Settings.model_fields:
        if mode == WARM:
            pytest.skip("this version has no warm starts")
        return {}
    return {"PILOTLIGHT_WARM_STARTS": "1" if mode == WARM else "0"}


@pytest.fixture(scope="module")
def escape_state() -> Iterator[Path]:
    """A state directory on which platforms run one after the other, so that images are built once."""
    kept = os.environ.get("PILOTLIGHT_E2E_STATE")
    directory = Path(f"{kept}-escape" if kept else tempfile.mkdtemp(prefix="pilotlight-escape-"))
    yield directory / "state"
    if not kept:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module", params=[ORDINARY, WARM, STRICT])
def guarded(request: pytest.FixtureRequest, bait: Bait, escape_state: Path) -> Iterator[Platform]:
    """A platform that starts containers in one way, with little disk for each."""
    mode, state = request.param, escape_state
    if mode == STRICT and not shutil.which("runsc"):
        pytest.skip("needs runsc")
    flags = [part for name, value in FLAGS[mode].items() for part in (f"--{name}", value)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {VARIABLE: "1", "PILOTLIGHT_EPHEMERAL_DISK_MIB": "512", **_variables(mode)}.items():
            patch.setenv(name, value)
        _pilotlight("up", "--detach", "--state", str(state), "--api", _free_address(), "--web", _free_address(), *flags)
    try:
        running = Platform(Settings(state=state), {**_environment(state), "ESCAPE_MODE": mode})
        running.modal("run", str(PROGRAMS.parent.parent.parent / "examples" / "hello.py"), deadline_s=FIRST_BUILD_S)
        yield running
    finally:
        _pilotlight("down", "--state", str(state))
        assert not any(traces(Settings(state=state)).values()), traces(Settings(state=state))


def _reports(text: str, kind: str) -> dict[str, dict[str, Any]]:
    entries = [json.loads(line) for line in text.splitlines() if line.startswith(f'{{"{kind}"')]
    return {entry[kind]: entry for entry in entries}


@pytest.fixture(scope="module")
def attack(guarded: Platform, bait: Bait) -> dict[str, dict[str, Any]]:
    """The attacker's report, probe by probe."""
    resolved = Settings.load(guarded.settings.run_dir / SETTINGS_FILE)
    gateway = resolved.container_subnet.replace(".0.0/16", ".0.1")
    around = asdict(bait.around)
    around["files"] += [str(resolved.first_token_path), str(resolved.inner_socket_path), str(resolved.run_dir / SETTINGS_FILE)]
    around["addresses"] = [gateway, resolved.link_local_address, socket.gethostbyname(socket.gethostname())]
    around["ports"] = [*bait.around.ports, int(guarded.environment["MODAL_SERVER_URL"].rpartition(":")[2])]
    finished = guarded.run("escape.py", json.dumps(around), str(resolved.gateway_dir), deadline_s=ATTACK_S)
    return _reports(finished.out, "probe")


@pytest.mark.parametrize("name", [*PROBES, "the_neighbour_says"])
def test_nothing_is_reached(attack: dict[str, dict[str, Any]], guarded: Platform, name: str) -> None:
    if guarded.environment["ESCAPE_MODE"] == STRICT and name in probes.IN_OWN_KERNEL:
        pytest.skip("a kernel of the container's own answers")
    report = attack[name]
    assert not report["error"], report["error"]
    assert not report["reached"], report["reached"]
    assert report["refused"], "it tried nothing"


def test_containers_were_started_in_the_way_that_was_asked_for(attack: dict[str, dict[str, Any]], guarded: Platform) -> None:
    assert len(attack) >= 41
    told = attack["the_neighbour_says"]["started"]
    mode = guarded.environment["ESCAPE_MODE"]
    assert (told["kernel"] == GVISOR) == (mode == STRICT), told
    if mode != STRICT:
        assert (told["init"] == "init") == (mode == ORDINARY), told


def test_nobody_came_to_the_host(attack: dict[str, dict[str, Any]], bait: Bait) -> None:
    assert attack and not bait.came
    assert [path.name for path in bait.directory.iterdir()] == ["canary"]
    assert (bait.directory / "canary").read_text() == "the host's"


def test_what_a_container_leaves_on_the_disk_is_for_root_alone(attack: dict[str, dict[str, Any]], guarded: Platform) -> None:
    """A container's set-uid file of its root is one of the host's root where ids are not shifted: nobody may get near."""
    assert attack
    assert guarded.settings.state.stat().st_mode & 0o077 == 0
    found = [path for path in guarded.settings.volumes_path.rglob("*") if path.is_block_device() or path.is_char_device()]
    assert not found, "a device that would be one for whoever mounts it elsewhere"


@pytest.mark.parametrize("name", [name for name in PROBES if name not in probes.NOT_ON_HOSTS])
def test_the_attempts_are_real_on_the_host(reachable_bait: Bait, name: str) -> None:
    """The same, by root without a container: it reaches something, so the refusals are the container's doing."""
    around = json.dumps(asdict(reachable_bait.around))
    code = "import json, probes, sys; probes.load()\n"
    code += "print(json.dumps(probes.run(sys.argv[1], probes.Surroundings(**json.loads(sys.argv[2])))))"
    done = subprocess.run(
        [str(CLIENTS["newest"] / "python"), "-c", code, name, around],
        cwd=PROGRAMS,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    report = json.loads(done.stdout)
    assert not report["error"], report["error"]
    if not report["reached"]:
        pytest.skip(f"this machine has nothing of it: {report['refused'][:3]}")


# ---- taking all there is ----

FLOODS = (
    *(
        "processes",
        "threads",
        "memory",
        "shared_memory",
        "device_directory",
        "disk",
        "inodes",
        "depth",
        "descriptors",
        "pipes",
        "watches",
    ),
    *(
        "terminals",
        "pending_signals",
        "message_queues",
        "connections",
        "gateway_connections",
        "gateway_nonsense",
        "gateway_messages",
        "lines",
        "one_line",
    ),
)
BOUNDED = set(FLOODS) - {"memory", "depth", "pipes", "connections", "gateway_nonsense", "gateway_messages", "lines", "one_line"}
ANSWER_S, START_S = 30.0, 45.0
GROWTH_MIB = 400


def _resident_mib(platform: Platform) -> int:
    lines = [Path(f"/proc/{pid}/status").read_text() for pid in platform.status()["processes"].values()]
    return sum(int(line.split()[1]) for text in lines for line in text.splitlines() if line.startswith("VmRSS")) >> 10


@dataclass(frozen=True)
class Flooded:
    reports: dict[str, dict[str, Any]]
    grown_mib: int


@pytest.fixture(scope="module")
def floods(guarded: Platform) -> Flooded:
    if guarded.environment["ESCAPE_MODE"] != ORDINARY and not os.environ.get(ALL_FLOODS):
        pytest.skip("`make escape` has the floods of each way of starting containers")
    before_mib = _resident_mib(guarded)
    finished = guarded.run("floods.py", deadline_s=FLOODS_S)
    return Flooded(_reports(finished.out, "flood"), _resident_mib(guarded) - before_mib)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOODS)
def test_others_work_on(floods: Flooded, guarded: Platform, name: str) -> None:
    report = floods.reports[name]
    assert not report["missing"], "the neighbour could not get"
    assert report["answer_s"] < ANSWER_S and report["start_s"] < START_S, report
    if name in BOUNDED and guarded.environment["ESCAPE_MODE"] != STRICT:  # there it is gVisor's memory, and so the container's
        assert "no end" not in report["got"], report


@pytest.mark.slow
def test_the_platform_keeps_no_flood(floods: Flooded) -> None:
    assert floods.grown_mib < GROWTH_MIB


@pytest.mark.slow
def test_one_container_does_not_fill_the_table_of_connections(floods: Flooded) -> None:
    before, after = (floods.reports[name]["flows"] for name in ("message_queues", "connections"))
    if not after:
        pytest.skip("this machine keeps no table of connections")
    assert after - before < MOST_FLOWS + 2_000


# ---- paths that clients name ----


@pytest.mark.slow
def test_paths_of_clients_stay_inside(guarded: Platform, bait: Bait, subtests: Any) -> None:
    if guarded.environment["ESCAPE_MODE"] != ORDINARY:
        pytest.skip("images are built in one way")
    finished = guarded.run("paths.py", str(bait.directory), deadline_s=PATHS_S)
    reports = _reports(finished.out, "path")
    assert len(reports) >= 15, finished.text[-4000:]
    for name, report in reports.items():
        with subtests.test(name):
            assert not report["reached"], report
    assert [path.name for path in bait.directory.iterdir()] == ["canary"]
    assert (bait.directory / "canary").read_text() == "the host's"
