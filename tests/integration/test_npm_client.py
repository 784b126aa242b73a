"""The official npm client on Node, unmodified, against a whole platform in this process."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import pytest
from platform_in_process import Platform
from support.node_programs import REPOSITORY, TYPESCRIPT, node_environment, run_checks

CLIENTS = {"newest": Path(sys.executable), "oldest": REPOSITORY / ".venv-oldest" / "bin" / "python"}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    running = Platform()
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def variables(platform: Platform) -> Mapping[str, str]:
    """What a client of the platform has in its environment; the app of the checks is deployed there."""
    token_id, secret = platform.token
    environment = {"MODAL_SERVER_URL": platform.url, "MODAL_TOKEN_ID": token_id, "MODAL_TOKEN_SECRET": secret}
    run_modal(environment, "deploy", str(TYPESCRIPT / "app.py"))
    run_modal(environment, "secret", "create", "typescript-secret", "COLOUR=red")
    return environment


def run_modal(variables: Mapping[str, str], *arguments: str, client: str = "newest") -> str:
    """A command of the stock command line, which must end well; returns what it printed."""
    if not CLIENTS[client].exists():
        pytest.skip(f"{CLIENTS[client]} is missing: make environment-oldest")
    command = [str(CLIENTS[client]), "-m", "modal", *arguments]
    environment = node_environment(variables) | {"COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["calls", "values", "classes", "objects", "logs", "clients"])
def test_checks(variables: Mapping[str, str], module: str, subtests: Any) -> None:
    for result in run_checks(module, variables):
        with subtests.test(result["check"]):
            assert result["error"] is None, result["error"]


def test_what_an_old_client_deployed_is_refused_in_words(variables: Mapping[str, str], tmp_path: Path) -> None:
    program = tmp_path / "old.py"
    program.write_text("import modal\napp = modal.App('old-app')\n@app.function()\ndef f():\n    return 1\n")
    run_modal(variables, "deploy", str(program), client="oldest")
    for result in run_checks("old", variables):
        assert result["error"] is None, result["error"]


def test_pings_of_an_idle_connection_are_answered(variables: Mapping[str, str]) -> None:
    """The npm client pings every 30 s without a call; servers that count such pings end its connection."""
    host, _, port = variables["MODAL_SERVER_URL"].removeprefix("http://").rpartition(":")
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    answered = 0
    with socket.create_connection((host, int(port)), timeout=60) as wire:
        for number in range(10):
            connection.ping(number.to_bytes(8))
            wire.sendall(connection.data_to_send())
            while answered <= number:
                received = wire.recv(65536)
                assert received, "the server has closed the connection"
                events = connection.receive_data(received)
                assert not any(isinstance(event, h2.events.ConnectionTerminated) for event in events)
                answered += sum(isinstance(event, h2.events.PingAckReceived) for event in events)
    assert answered == 10


def test_the_command_line_reads_the_output_of_one_call(variables: Mapping[str, str]) -> None:
    spawn = "import modal; c = modal.Function.from_name('typescript-tests', 'speak').spawn(2, '{}'); c.get(); print(c.object_id)"

    def call(word: str) -> str:
        command = [str(CLIENTS["newest"]), "-c", spawn.format(word)]
        done = subprocess.run(command, env=node_environment(variables), capture_output=True, text=True, timeout=150, check=True)
        return done.stdout.strip()

    one, other = call("mine"), call("theirs")
    shown = run_modal(variables, "app", "logs", "typescript-tests", "--function-call", one, "--show-function-call-id")
    assert "mine 0" in shown and "mine to stderr" in shown and one in shown, shown
    assert "theirs" not in shown
    assert "theirs 1" in run_modal(variables, "app", "logs", "typescript-tests", "--function-call", other, "--since", "1h")


def test_the_command_line_reads_the_output_of_all_variants_of_a_class(variables: Mapping[str, str]) -> None:
    shelf = "import modal; [modal.Cls.from_name('typescript-tests', 'Shelf')(label=x).describe.remote() for x in ('left', 'right')]"
    subprocess.run([str(CLIENTS["newest"]), "-c", shelf], env=node_environment(variables), timeout=150, check=True)
    shown = run_modal(variables, "function", "logs", "typescript-tests/Shelf.*", "--all-variants", "--since", "1h")
    assert "this is left" in shown and "this is right" in shown, shown
