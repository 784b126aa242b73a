"""The real supervisor and command line, with stubs for server, edge and node: what starts, what survives, what is left."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotlight.config import TUNNELS, Settings

PILOTLIGHT = Path(sys.executable).with_name("pilotlight")
LIMIT_S = 60
USUAL_TUNNEL_PORT = int(TUNNELS.rpartition(":")[2])

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the supervisor makes its run directory in /run")


class Platform:
    """A platform of stubs in a directory of its own."""

    def __init__(self, state: Path) -> None:
        self.settings = Settings(state=state)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "PILOTLIGHT_"))},
            "PILOTLIGHT_MAIN_MODULE": "stub_main",
            "PYTHONPATH": str(Path(__file__).parent),
            "HOME": str(state.parent),
        }

    def run(self, command: str, *flags: str, **popen: object) -> "subprocess.CompletedProcess[str]":
        arguments = [PILOTLIGHT, command, "--state", self.settings.state, *flags]
        return subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, timeout=LIMIT_S, check=False, **popen
        )  # type: ignore[call-overload]

    def up(self) -> None:
        done = self.run("up", "--detach", "--api", "127.0.0.1:0", "--web", "127.0.0.1:0")
        assert done.returncode == 0, done.stderr
        assert "is ready" in done.stdout

    @property
    def pids(self) -> dict[str, int]:
        return json.loads((self.settings.run_dir / "processes.json").read_text())

    @property
    def resolved(self) -> Settings:
        return Settings.load(self.settings.run_dir / "settings.json")

    def ask(self, address: str) -> str:
        """What the stub that accepts the connection says: role, listener's name, pid."""
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=LIMIT_S) as connection:
            return connection.recv(100).decode()


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path / "state")
    yield made
    made.run("down")
    assert not made.settings.run_dir.exists()


def wait_for_end(pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(LIMIT_S * 1000), "the process did not end"
    os.close(pidfd)


def test_up_is_ready_and_down_leaves_nothing(platform: Platform) -> None:
    platform.up()
    pids = platform.pids
    pidfds = {role: os.pidfd_open(pid) for role, pid in pids.items()}
    assert set(pids) == {"supervisor", "server", "edge", "node"}
    assert platform.settings.state.stat().st_mode & 0o777 == 0o700
    assert platform.settings.run_dir.stat().st_mode & 0o777 == 0o711
    assert platform.settings.inner_socket_path.stat().st_mode & 0o777 == 0o600
    assert platform.ask(platform.resolved.api).split()[:2] == ["server", "api"]
    assert platform.ask(platform.resolved.web).split()[:2] == ["edge", "web"]

    down = platform.run("down")
    assert (down.returncode, down.stdout) == (0, "Pilotlight has stopped.\n")
    for pidfd in pidfds.values():
        wait_for_end(pidfd)
    assert not platform.settings.run_dir.exists()
    assert (platform.settings.state / "ended").read_text().split() == ["node", "server", "edge"]

    again = platform.run("down")
    assert (again.returncode, again.stdout) == (0, "Pilotlight is not running.\n")


def test_a_second_up_says_that_it_runs_and_harms_nothing(platform: Platform) -> None:
    platform.up()
    before = platform.pids
    second = platform.run("up", "--detach")
    assert second.returncode == 0
    assert f"already running (pid {before['supervisor']}): API {platform.resolved.api}" in second.stdout
    assert platform.pids == before


@pytest.mark.parametrize("role", ["server", "edge"])
def test_a_killed_process_comes_back_on_the_same_socket(platform: Platform, role: str) -> None:
    platform.up()
    address = platform.resolved.api if role == "server" else platform.resolved.web
    victim = platform.pids[role]
    os.kill(victim, signal.SIGKILL)
    answered_by = int(platform.ask(address).split()[2])
    assert answered_by != victim
    assert platform.pids[role] == answered_by


def test_detached_it_keeps_nothing_of_the_caller(platform: Platform) -> None:
    reading, writing = os.pipe()
    platform.settings.state.mkdir()
    arguments = [PILOTLIGHT, "up", "--detach", "--state", platform.settings.state, "--api", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    with subprocess.Popen(arguments, env=platform.environment, stdout=writing, stderr=writing, pass_fds=[writing]) as caller:
        os.close(writing)
        with os.fdopen(reading) as output:
            text = output.read()  # ends only when the last process that holds the pipe closed it
        assert caller.wait(LIMIT_S) == 0
    assert "is ready" in text
    supervisor = platform.pids["supervisor"]
    assert os.getsid(supervisor) != os.getsid(0)
    assert Path(f"/proc/{supervisor}/fd/0").readlink() == Path(os.devnull)


def test_after_the_supervisor_was_killed_down_cleans_and_up_starts_anew(platform: Platform) -> None:
    platform.up()
    slot = platform.resolved.network_slot
    pidfds = [os.pidfd_open(pid) for pid in platform.pids.values()]
    os.kill(platform.pids["supervisor"], signal.SIGKILL)
    for pidfd in pidfds:
        wait_for_end(pidfd)  # the others go with it
    assert platform.run("status").returncode == 3
    platform.up()
    assert platform.resolved.network_slot == slot
    os.kill(platform.pids["supervisor"], signal.SIGKILL)
    down = platform.run("down")
    assert down.returncode == 0
    assert not platform.settings.run_dir.exists()


def test_a_process_that_can_not_start_fails_up_with_its_last_words(platform: Platform) -> None:
    platform.settings.state.mkdir()
    (platform.settings.state / "edge.fail").touch()
    up = platform.run("up", "--detach", "--api", "127.0.0.1:0", "--web", "127.0.0.1:0")
    assert up.returncode == 1
    assert "the edge process ended each time it was started" in up.stderr
    assert "edge can't go on" in up.stderr
    assert "pilotlight doctor" in up.stderr
    assert platform.run("status").returncode == 3


def test_in_the_foreground_an_interrupt_stops_it_in_order(platform: Platform) -> None:
    arguments = [PILOTLIGHT, "up", "--state", platform.settings.state, "--api", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    with subprocess.Popen(arguments, env=platform.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as up:
        assert up.stdout is not None
        assert "is ready" in up.stdout.readline()
        up.send_signal(signal.SIGINT)
        assert up.wait(LIMIT_S) == 0
    assert (platform.settings.state / "ended").read_text().split() == ["node", "server", "edge"]


def test_a_port_in_use_is_named_with_its_holder(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = platform.run("up", "--detach", "--api", f"127.0.0.1:{port}", "--web", "127.0.0.1:0")
    assert up.returncode == 1
    assert f"port {port} is in use by" in up.stderr
    assert f"(pid {os.getpid()})" in up.stderr
    assert f"--api 127.0.0.1:{port + 1}" in up.stderr


def test_tunnels_go_to_another_port_where_the_usual_one_is_taken(platform: Platform) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # another platform may have it
            stack.enter_context(socket.create_server(("127.0.0.1", USUAL_TUNNEL_PORT)))
        platform.up()
        address = platform.resolved.tunnel_tls
        assert address.startswith("127.0.0.1:") and not address.endswith(f":{USUAL_TUNNEL_PORT}")
        assert platform.ask(address) == f"edge tunnels {platform.pids['edge']}"


def test_a_port_for_tunnels_that_was_named_is_kept_to(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = f"127.0.0.1:{taken.getsockname()[1]}"
        up = platform.run("up", "--detach", "--api", "127.0.0.1:0", "--web", "127.0.0.1:0", "--tunnel-tls", wanted)
    assert up.returncode == 1
    assert "is in use by" in up.stderr and "--tunnel-tls" in up.stderr


def test_other_than_loopback_needs_insecure(platform: Platform) -> None:
    up = platform.run("up", "--detach", "--api", "0.0.0.0:0", "--web", "127.0.0.1:0")
    assert up.returncode == 1
    assert "--insecure" in up.stderr


def test_two_platforms_live_side_by_side(platform: Platform, tmp_path: Path) -> None:
    platform.up()
    other = Platform(tmp_path / "other")
    other.up()
    try:
        assert other.resolved.network_slot != platform.resolved.network_slot
    finally:
        assert other.run("down").returncode == 0
    assert platform.ask(platform.resolved.api).startswith("server")


def test_status_of_what_does_not_run(platform: Platform) -> None:
    status = platform.run("status", "--json")
    assert status.returncode == 3
    assert json.loads(status.stdout)["running"] is False
    assert "pilotlight up --detach" in status.stderr


def test_a_server_that_does_not_answer_still_has_a_status(platform: Platform) -> None:
    platform.up()
    status = platform.run("status", "--json")
    assert status.returncode == 1
    document = json.loads(status.stdout)
    assert document["processes"] == platform.pids
    assert "pilotlight logs server" in document["error"]


def test_env_prints_four_lines_or_writes_a_profile(platform: Platform) -> None:
    missing = platform.run("env")
    assert missing.returncode == 1
    assert "pilotlight up" in missing.stderr
    platform.settings.state.mkdir()
    platform.settings.first_token_path.write_text("ak-1:as-1\n")
    assert platform.run("env").stdout.splitlines() == [
        "export MODAL_SERVER_URL=http://127.0.0.1:9900",
        "export MODAL_TOKEN_ID=ak-1",
        "export MODAL_TOKEN_SECRET=as-1",
        "export MODAL_DISABLE_API_PROXY=1",
    ]
    written = platform.run("env", "--write-profile", "mine")
    assert "Plain `modal` uses it now" in written.stdout
    modal = [Path(sys.executable).with_name("modal"), "config", "show"]
    shown = subprocess.run(modal, env=platform.environment, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    settings = json.loads(shown.stdout)
    assert (settings["server_url"], settings["token_id"], settings["disable_api_proxy"]) == ("http://127.0.0.1:9900", "ak-1", True)


def test_logs_of_all_and_of_one(platform: Platform) -> None:
    assert platform.run("logs").returncode == 1
    platform.up()
    assert "platform_ready" in platform.run("logs", "supervisor").stdout
    assert platform.run("logs").stdout.startswith("supervisor ")


@pytest.mark.parametrize("flags", [["--detach"], []])
def test_a_process_that_refuses_is_believed_at_once_and_says_why(platform: Platform, flags: list[str]) -> None:
    platform.settings.state.mkdir(mode=0o700)
    (platform.settings.state / "server.refuse").write_text("the database is damaged.\nDo this.")
    done = platform.run("up", *flags, "--api", "127.0.0.1:0", "--web", "127.0.0.1:0")
    assert done.returncode == 1
    assert done.stderr.endswith("pilotlight: the database is damaged.\nDo this.\n")
    journal = (platform.settings.process_logs_dir / "supervisor.log").read_text()
    assert journal.count("process_started role=server") == 1


def test_what_a_process_wants_to_be_known_is_shown_by_up(platform: Platform) -> None:
    platform.settings.state.mkdir(mode=0o700)
    (platform.settings.state / "server.note").write_text("There is a copy, as /state/copy.db")
    done = platform.run("up", "--detach", "--api", "127.0.0.1:0", "--web", "127.0.0.1:0")
    assert done.returncode == 0, done.stderr
    assert "There is a copy, as /state/copy.db\nPilotlight is ready" in done.stdout
