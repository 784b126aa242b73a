"""Completion webhooks of programs: the stock client calls, a real receiver hears of it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import pytest
from click.testing import CliRunner, Result
from platform_in_process import Platform
from support.webhook_receiver import Receiver

from pilotlight.cli import webhooks as cli
from pilotlight.cli.control import ask
from pilotlight.core.errors import PilotlightError
from pilotlight.wire import platform_pb2 as wire

app = modal.App("told")


@app.function(serialized=True)
def describe(number: int) -> dict[str, Any]:
    return {"number": number, "words": ["one", None, True, 1.5]}


@app.function(serialized=True)
def fail(message: str) -> None:
    raise ValueError(message)


@app.function(serialized=True, retries=modal.Retries(max_retries=2, initial_delay=0.0, backoff_coefficient=1.0))
def succeed_at_second(path: str) -> int:
    from pathlib import Path

    with Path(path).open("a") as log:
        log.write("x")
    tries = Path(path).stat().st_size
    if tries < 2:
        raise RuntimeError(f"try {tries}")
    return tries


@app.function(serialized=True)
def count(limit: int):  # type: ignore[no-untyped-def]
    yield from range(limit)


@app.function(serialized=True, timeout=1, startup_timeout=60)
def hang() -> None:
    import time

    time.sleep(600)


@app.cls(serialized=True)
class Model:
    @modal.method()
    def run(self, number: int) -> int:
        return number


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    running = Platform(webhook_allow_private=True)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def secret(platform: Platform, receiver: Receiver) -> str:
    request = wire.WebhookAddRequest(app="told", url=receiver.url())
    made = ask(platform.settings, lambda control: control.WebhookAdd(request))
    return made.secret


@pytest.fixture(scope="module")
def running(platform: Platform, secret: str) -> Iterator[modal.App]:
    before = dict(os.environ)
    os.environ |= {
        "MODAL_SERVER_URL": platform.url,
        "MODAL_DISABLE_API_PROXY": "1",
        "MODAL_CONFIG_PATH": str(platform.settings.state / "modal.toml"),
    }
    try:
        with modal.Client.from_credentials(*platform.token) as client, app.run(client=client):
            yield app
    finally:
        os.environ.clear()
        os.environ |= before


@pytest.mark.usefixtures("running")
class TestCalls:
    def test_a_plain_result_in_cbor_is_part_of_the_body(
        self, receiver: Receiver, secret: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MODAL_PAYLOAD_FORMAT", "cbor")
        call = describe.spawn(7)
        said = receiver.next().verified(secret)
        assert said["type"] == "function_call.completed"
        assert said["data"]["function_call_id"] == call.object_id
        assert said["data"]["function"] == "describe"
        assert said["data"]["result_format"] == "cbor"
        assert said["data"]["result"] == call.get(timeout=60) == {"number": 7, "words": ["one", None, True, 1.5]}

    def test_a_pickled_result_is_not_opened(self, receiver: Receiver, secret: str) -> None:
        describe.remote(7)
        data = receiver.next().verified(secret)["data"]
        assert (data["result"], data["result_format"]) == (None, "pickle")

    def test_a_failure_is_told_with_its_error(self, receiver: Receiver, secret: str) -> None:
        with pytest.raises(ValueError, match="no use"):
            fail.remote("no use")
        said = receiver.next().verified(secret)
        assert said["type"] == "function_call.failed"
        assert said["data"]["error"] == {"type": "ValueError", "message": "ValueError('no use')"}

    def test_of_a_call_with_retries_the_last_attempt_is_told(self, receiver: Receiver, secret: str, tmp_path: Path) -> None:
        assert succeed_at_second.remote(str(tmp_path / "remote")) == 2
        said = receiver.next().verified(secret)
        assert (said["type"], said["data"]["attempts"]) == ("function_call.completed", 2)
        assert succeed_at_second.spawn(str(tmp_path / "spawn")).get(timeout=60) == 2
        assert receiver.next().verified(secret)["data"]["attempts"] == 2

    def test_a_map_is_told_once_and_soon(self, receiver: Receiver, secret: str) -> None:
        assert len(list(describe.map(range(30)))) == 30
        data = receiver.next().verified(secret)["data"]
        assert (data["kind"], data["status"], data["inputs_by_status"]) == ("map", "completed", {"success": 30})

    def test_a_spawned_map_is_told_when_its_last_input_is_done(self, receiver: Receiver, secret: str) -> None:
        call = describe.experimental_spawn_map(range(5))
        data = receiver.next().verified(secret)["data"]
        assert data["function_call_id"] == call.object_id
        assert data["inputs_by_status"] == {"success": 5}

    def test_a_generator_is_told_at_its_end(self, receiver: Receiver, secret: str) -> None:
        assert list(count.remote_gen(5)) == [0, 1, 2, 3, 4]
        data = receiver.next().verified(secret)["data"]
        assert (data["result"], data["result_format"], data["items"]) == (None, "generator", 5)

    def test_a_timeout_is_told_as_such(self, receiver: Receiver, secret: str) -> None:
        with pytest.raises(modal.exception.FunctionTimeoutError):
            hang.remote()
        assert receiver.next().verified(secret)["type"] == "function_call.timed_out"

    def test_a_method_has_its_name(self, receiver: Receiver, secret: str) -> None:
        assert Model().run.remote(3) == 3
        assert receiver.next().verified(secret)["data"]["function"] == "Model.run"

    def test_a_receiver_that_failed_hears_it_a_little_later(self, receiver: Receiver, secret: str) -> None:
        receiver.will_answer(502)
        describe.remote(1)
        first = receiver.next()
        second = receiver.next()  # after about five seconds
        assert (second.delivery_id, second.body) == (first.delivery_id, first.body)
        assert second.verified(secret)
        assert receiver.is_quiet


def invoke(platform: Platform, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setattr(cli, "running_settings", lambda settings: platform.settings)
    monkeypatch.setenv("COLUMNS", "250")
    return CliRunner().invoke(cli.webhook, [*arguments], catch_exceptions=False)


class TestCommandLine:
    def test_from_the_first_to_the_last(self, platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        url = receiver.url("/other")
        added = invoke(platform, monkeypatch, "add", url, "--app", "other", "--function", "f")
        webhook_id, secret = re.findall(r"^(?:wh-\w{22}|whsec_\S{44})$", added.stdout, re.MULTILINE)
        listed = invoke(platform, monkeypatch, "list").stdout
        assert webhook_id in listed
        assert url in listed
        assert secret not in listed
        assert webhook_id not in invoke(platform, monkeypatch, "deliveries", webhook_id).stdout
        assert "is removed" in invoke(platform, monkeypatch, "remove", webhook_id).stdout
        assert webhook_id not in invoke(platform, monkeypatch, "list").stdout

    @pytest.mark.usefixtures("running")
    def test_a_delivery_is_listed_and_sent_again(
        self, platform: Platform, receiver: Receiver, secret: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        call_id = describe.spawn(1).object_id
        first = receiver.next()
        listed = invoke(platform, monkeypatch, "deliveries", "--limit", "1").stdout
        assert first.delivery_id in listed
        assert call_id in listed
        assert "sent now" in invoke(platform, monkeypatch, "redeliver", first.delivery_id).stdout
        again = receiver.next()
        assert (again.delivery_id, again.body) == (first.delivery_id, first.body)
        assert again.verified(secret)

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            (("remove", "wh-nothing"), "no webhook 'wh-nothing'"),
            (("deliveries", "wh-nothing"), "no webhook 'wh-nothing'"),
            (("redeliver", "wd-nothing"), "no delivery 'wd-nothing'"),
            (("add", "ftp://x", "--app", "a"), "https://"),
            (("add", "https://x.com", "--app", "a", "--env", "nowhere"), "Environment 'nowhere' not found"),
            (("list", "--env", "nowhere"), "Environment 'nowhere' not found"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, platform: Platform, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], why: str
    ) -> None:
        with pytest.raises(PilotlightError, match=why):
            invoke(platform, monkeypatch, *arguments)
