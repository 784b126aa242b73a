"""The example in TypeScript with a platform in this process: a call is spawned, its end is told to the receiver of webhooks."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from platform_in_process import Platform
from support.node_programs import REPOSITORY, node_command, node_environment

EXAMPLE = REPOSITORY / "examples" / "typescript"


@pytest.fixture
def platform() -> Iterator[Platform]:
    running = Platform(webhook_allow_private=True)
    running.start()
    yield running
    running.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_the_end_of_a_spawned_call_is_told(platform: Platform) -> None:
    token_id, token_secret = platform.token
    environment = node_environment(
        {"MODAL_SERVER_URL": platform.url, "MODAL_TOKEN_ID": token_id, "MODAL_TOKEN_SECRET": token_secret}
    )

    def run(*command: str) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    run(sys.executable, "-m", "modal", "deploy", str(EXAMPLE / "app.py"))
    port = free_port()
    _, secret = platform.call(platform.server.webhooks.add("typescript-example", "render", "main", f"http://127.0.0.1:{port}/"))
    receiver = subprocess.Popen(
        node_command(EXAMPLE / "src" / "receive-webhooks.ts"),
        env=node_environment({"WEBHOOK_SECRET": secret, "PORT": str(port)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == f"receiving on port {port}\n"
        call_id = run(*node_command(EXAMPLE / "src" / "spawn-and-collect.ts"))
        told = receiver.stdout.readline()
        receiver.kill()
    assert told == f"function_call.completed: typescript-example/render {call_id} {{ pages: 10, bytes: 10240 }}\n"
