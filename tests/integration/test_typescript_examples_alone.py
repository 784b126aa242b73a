"""Programs of examples/typescript that need no platform: the receiver of webhooks, and what all say of a missing variable."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook
from support.node_programs import REPOSITORY, node_command, node_environment

from pilotlight.core.webhooks import EndedCall, Outcome, document

SOURCES = REPOSITORY / "examples" / "typescript" / "src"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEEDS = {
    "call-function": "MODAL_SERVER_URL",
    "spawn-and-collect": "MODAL_SERVER_URL",
    "semantic-search": "MODAL_SERVER_URL",
    "fetch-endpoint": "ANALYSIS_URL",
    "fetch-protected": "REPORT_URL",
    "stream-events": "PROGRESS_URL",
    "receive-webhooks": "WEBHOOK_SECRET",
}


@pytest.fixture
def receiver() -> Iterator["subprocess.Popen[str]"]:
    environment = node_environment({"WEBHOOK_SECRET": SECRET, "PORT": "0"})
    command = node_command(SOURCES / "receive-webhooks.ts")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def read_line(receiver: "subprocess.Popen[str]") -> str:
    assert receiver.stdout is not None
    return receiver.stdout.readline()


def post(port: int, body: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_webhook_is_believed_once_and_only_if_it_is_signed(receiver: "subprocess.Popen[str]") -> None:

    port = int(read_line(receiver).rpartition(" ")[2])
    outcome = Outcome("in-1", "success", result={"pages": 3}, result_format="cbor")
    call = EndedCall("fc-1", "ap-1", "typescript-example", "main", "render", 1.0, 2.0, outcome=outcome)
    body = json.dumps(document(call))
    now = datetime.now(UTC)

    def headers(message_id: str, signature: str) -> dict[str, str]:
        stamp = str(int(now.timestamp()))
        return {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": signature}

    signature = Webhook(SECRET).sign("msg_1", now, body)
    assert post(port, body, headers("msg_1", signature)) == 204
    assert post(port, body, headers("msg_1", signature)) == 204
    assert post(port, body.replace("3", "4"), headers("msg_1", signature)) == 401
    assert post(port, body, headers("msg_2", signature)) == 401
    assert post(port, body, {}) == 401
    assert post(port, "x" * (2 << 20), headers("msg_3", signature)) == 413
    assert post(port, body, headers("msg_4", Webhook(SECRET).sign("msg_4", now, body))) == 204
    expected = "function_call.completed: typescript-example/render fc-1 { pages: 3 }\n"
    assert [read_line(receiver), read_line(receiver)] == [expected, expected]  # of msg_1 and msg_4, each once
    receiver.kill()
    assert receiver.stdout is not None and receiver.stdout.read() == ""


@pytest.mark.parametrize(("program", "variable"), NEEDS.items())
def test_a_missing_variable_is_named(program: str, variable: str) -> None:
    command = node_command(SOURCES / f"{program}.ts")
    done = subprocess.run(command, env=node_environment({}), capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 1
    assert f"{variable} is not set" in done.stderr and "README.md" in done.stderr, done.stderr
