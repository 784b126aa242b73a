"""Completion webhooks over a real database and a real receiver: nothing is lost, and nothing is told too early or twice."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from heart import ASYNC, DEADLINE_S, MAP, FakeNode, Heart, put_item
from modal_proto import api_pb2
from sqlalchemy import text
from standardwebhooks import WebhookVerificationError
from support.webhook_receiver import Received, Receiver

from pilotlight.config import Settings
from pilotlight.control import webhook_sender
from pilotlight.control.webhooks import RETRY_GRACE_S, Webhook
from pilotlight.core import errors
from pilotlight.store import calls as call_rows

FAILURE = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
RETRIES = api_pb2.FunctionRetryPolicy(retries=1, initial_delay_ms=1000, backoff_coefficient=1.0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def listening(state: Path, scenario: Callable[[Heart, FakeNode], Awaitable[None]], *, allow_private: bool = True) -> None:
    """A scenario on a server that may send to this machine, and a node."""

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S):
            heart = Heart(state)
            heart.settings = Settings(state=state, synchronous="NORMAL", webhook_allow_private=allow_private)
            await heart.open()
            try:
                node = FakeNode(heart)
                await node.connect()
                await scenario(heart, node)
            finally:
                await heart.close()

    asyncio.run(run())


async def hook(heart: Heart, receiver: Receiver, function: str = "", app: str = "f") -> tuple[Webhook, str]:
    return await heart.server.webhooks.add(app, function, "", receiver.url())


async def finish(heart: Heart, node: FakeNode, function_id: str, status: int = 1, **options: Any) -> str:
    """A call of one input that is answered; returns its id."""
    pool = await heart.pool(function_id)
    task = next(iter(pool.live_tasks()), None) or await node.ready(function_id)
    call = await heart.call(function_id, **options)
    [[(input_id, attempt)]] = await node.next_delivered()
    assert await node.answer(task, input_id, attempt, status) == ""
    return call.call_id


async def deliveries(heart: Heart) -> list[Any]:
    return list(await heart.server.webhooks.deliveries(""))


async def send(heart: Heart, receiver: Receiver) -> Received:
    """Have what is due sent, and wait until what came of it is recorded."""
    [row] = [row for row in await deliveries(heart) if row.state == "pending"]
    await heart.server.webhook_deliveries.deliver(row.delivery_id)
    return await asyncio.to_thread(receiver.next)


def test_the_end_of_a_call_is_told_and_signed(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        _, secret = await hook(heart, receiver)
        assert secret.startswith("whsec_")
        call_id = await finish(heart, node, function_id)
        received = await send(heart, receiver)
        said = received.verified(secret)
        assert said["type"] == "function_call.completed"
        assert said["data"]["function_call_id"] == call_id
        assert (said["data"]["app"], said["data"]["function"], said["data"]["environment"]) == ("f", "f", "main")
        assert received.headers["content-type"] == "application/json"
        assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < DEADLINE_S
        with pytest.raises(WebhookVerificationError):
            Received("", received.headers, received.body + b" ").verified(secret)
        [row] = await deliveries(heart)
        assert (row.state, row.attempts, row.status, row.delivery_id) == ("delivered", 1, 200, received.delivery_id)
        await heart.server.webhook_deliveries.deliver(row.delivery_id)  # a 2xx is the end of it
        assert receiver.is_quiet

    listening(tmp_path, scenario)


def test_the_delivery_is_on_disk_with_the_output(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        _, secret = await hook(heart, receiver)
        call_id = await finish(heart, node, function_id)
        await heart.restart()
        assert (await send(heart, receiver)).verified(secret)["data"]["function_call_id"] == call_id

    listening(tmp_path, scenario)


def test_what_is_not_covered_costs_no_row(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        await hook(heart, receiver, app="another")
        await hook(heart, receiver, function="g")
        await finish(heart, node, function_id)
        assert await deliveries(heart) == []

    listening(tmp_path, scenario)


def test_a_receiver_that_fails_is_tried_again_later_with_the_same_words(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        _, secret = await hook(heart, receiver)
        receiver.will_answer(500, b"out of \x00order")
        receiver.will_answer(503, Retry_After="1800")
        await finish(heart, node, function_id)
        before = time.time()
        first, at = await send(heart, receiver), time.time()
        [row] = await deliveries(heart)
        after = time.time()
        assert (row.state, row.attempts, row.status, row.problem) == ("pending", 1, 500, "out of  order")
        assert before + 3.75 <= row.due_at <= after + 6.25
        await heart.restart()
        second = await send(heart, receiver)
        [row] = await deliveries(heart)
        assert row.due_at > at + 1700
        third = await send(heart, receiver)
        assert first.delivery_id == second.delivery_id == third.delivery_id
        assert first.body == second.body == third.body
        assert third.verified(secret)
        [row] = await deliveries(heart)
        assert (row.state, row.attempts) == ("delivered", 3)

    listening(tmp_path, scenario)


def test_after_a_day_it_is_given_up_and_can_be_asked_for_anew(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        await hook(heart, receiver)
        receiver.will_answer(500)
        await finish(heart, node, function_id)
        await heart.server.database.write(
            lambda connection: connection.execute(text("UPDATE webhook_deliveries SET give_up_at = 1"))
        )
        await send(heart, receiver)
        [row] = await deliveries(heart)
        assert row.state == "failed"
        await heart.server.webhooks.redeliver(row.delivery_id)
        assert (await send(heart, receiver)).delivery_id == row.delivery_id
        [row] = await deliveries(heart)
        assert (row.state, row.attempts) == ("delivered", 2)
        await heart.server.webhooks.redeliver(row.delivery_id)
        assert (await send(heart, receiver)).delivery_id == row.delivery_id
        with pytest.raises(errors.NotFound, match="wd-nothing"):
            await heart.server.webhooks.redeliver("wd-nothing")

    listening(tmp_path, scenario)


def test_what_there_is_nothing_left_to_tell_of_has_failed(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        await hook(heart, receiver)
        await finish(heart, node, function_id)
        await heart.server.database.write(lambda connection: call_rows.delete_expired(connection, time.time() + 1, 10))
        [row] = await deliveries(heart)
        await heart.server.webhook_deliveries.deliver(row.delivery_id)
        [row] = await deliveries(heart)
        assert (row.state, row.attempts, row.problem) == ("failed", 0, "the call's results are past their time")
        assert receiver.is_quiet

    listening(tmp_path, scenario)


def test_a_receiver_that_is_gone_hears_no_more(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        webhook, _ = await hook(heart, receiver)
        receiver.will_answer(410)
        await finish(heart, node, function_id)
        await send(heart, receiver)
        await heart.restart()
        [row] = await deliveries(heart)
        assert row.state == "failed"
        assert heart.server.webhooks.get(webhook.webhook_id).gone_at
        with pytest.raises(errors.WrongState, match="410 Gone"):
            await heart.server.webhooks.redeliver(row.delivery_id)
        await node.connect()
        await finish(heart, node, function_id, key="another")
        assert len(await deliveries(heart)) == 1

    listening(tmp_path, scenario)


def test_redirects_are_not_followed(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        await hook(heart, receiver)
        receiver.will_answer(307, Location=receiver.url("/elsewhere"))
        await finish(heart, node, function_id)
        assert (await send(heart, receiver)).path == "/hook"
        [row] = await deliveries(heart)
        assert (row.state, row.status, row.problem) == ("pending", 307, "redirects are not followed")
        assert receiver.is_quiet

    listening(tmp_path, scenario)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_private_addresses_are_judged_when_they_are_connected_to(tmp_path: Path, receiver: Receiver, host: str) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        # What was allowed when the webhook was added, or named another address then, is refused now.
        answer = await heart.server.webhook_sender.post(f"http://{host}:{receiver.port}/", {}, b"{}")
        assert answer.status == 0
        assert "loopback address: nothing is sent there" in answer.problem
        assert receiver.is_quiet
        with pytest.raises(errors.InvalidInput, match="--webhook-allow-private"):
            await heart.server.webhooks.add("f", "", "", f"http://{host}:{receiver.port}/")

    listening(tmp_path, scenario, allow_private=False)


def test_an_endless_answer_is_cut(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        receiver.will_answer(500, b"x" * 50_000_000)
        answer = await heart.server.webhook_sender.post(receiver.url(), {}, b"{}")
        assert (answer.status, answer.problem) == (500, "x" * 200)

    listening(tmp_path, scenario)


def test_who_never_answers_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            answer = await heart.server.webhook_sender.post(f"http://127.0.0.1:{silent.getsockname()[1]}/", {}, b"{}")
        assert (answer.status, answer.problem) == (0, "no answer within 0 s")

    monkeypatch.setattr(webhook_sender, "TIMEOUT_S", 0.2)
    listening(tmp_path, scenario)


def test_an_attempt_that_the_end_of_the_server_cut_off_is_made_again(tmp_path: Path) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            await heart.server.webhooks.add("f", "", "", f"http://127.0.0.1:{silent.getsockname()[1]}/")
            await finish(heart, node, function_id)
            assert (await heart.server.webhook_loop.run_once()).started == 1
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                await heart.restart()
        [row] = await deliveries(heart)
        assert (row.state, row.attempts) == ("pending", 0)
        assert row.event == "function_call.completed"

    listening(tmp_path, scenario)


def test_a_failure_that_its_caller_retries_is_not_told(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define(retry_policy=RETRIES)
        _, secret = await hook(heart, receiver)
        task = await node.ready(function_id)
        call = await heart.call(function_id)
        [[(input_id, _)]] = await node.next_delivered()
        await node.answer(task, input_id, 0, FAILURE)
        [row] = await deliveries(heart)
        assert row.due_at - row.created_at == pytest.approx(1.0 + RETRY_GRACE_S)
        await heart.server.calls.retry(call.call_id, [(0, put_item(0).input, 1)])
        assert await deliveries(heart) == []
        await node.next_delivered()
        await node.answer(task, input_id, 1, FAILURE)
        [row] = await deliveries(heart)
        assert row.due_at == row.created_at  # there is no attempt left
        said = (await send(heart, receiver)).verified(secret)
        assert (said["type"], said["data"]["attempts"]) == ("function_call.failed", 2)

    listening(tmp_path, scenario)


def test_a_failure_that_the_server_retries_is_told_at_its_end(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define(retry_policy=api_pb2.FunctionRetryPolicy(retries=1, backoff_coefficient=1.0))
        await hook(heart, receiver)
        task = await node.ready(function_id)
        await heart.call(function_id, invocation=ASYNC)
        [[(input_id, _)]] = await node.next_delivered()
        await node.answer(task, input_id, 0, FAILURE)
        assert await deliveries(heart) == []
        await node.next_delivered()
        await node.answer(task, input_id, 1, FAILURE)
        [row] = await deliveries(heart)
        assert row.due_at == row.created_at

    listening(tmp_path, scenario)


def test_a_spawned_map_ends_with_its_last_output_once_all_inputs_are_there(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define(max_concurrent_inputs=10)
        _, secret = await hook(heart, receiver)
        task = await node.ready(function_id)
        call = await heart.call(function_id, count=2, kind=MAP, invocation=ASYNC)
        inputs = [lease for message in await node.next_delivered() for lease in message]
        for input_id, _ in inputs:
            await node.answer(task, input_id)
        [row] = await deliveries(heart)
        assert row.due_at > row.created_at  # more inputs may come, and do
        await heart.server.calls.put_inputs(call.call_id, [put_item(2)])
        assert await deliveries(heart) == []
        heart.server.calls.complete(call.call_id)
        [[(input_id, _)]] = await node.next_delivered()
        await node.answer(task, input_id, 0, FAILURE)
        [row] = await deliveries(heart)
        assert row.due_at == row.created_at
        said = (await send(heart, receiver)).verified(secret)
        assert (said["type"], said["data"]["kind"]) == ("function_call.failed", "map")
        assert said["data"]["inputs_by_status"] == {"success": 2, "failure": 1}

    listening(tmp_path, scenario)


def test_a_map_whose_caller_waits_is_not_told_before_the_caller_has_finished(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        _, secret = await hook(heart, receiver)
        call_id = await finish(heart, node, function_id, kind=MAP)
        [row] = await deliveries(heart)
        await heart.server.webhook_deliveries.deliver(row.delivery_id)  # its time has come, but the caller is there
        [later] = await deliveries(heart)
        assert (later.state, later.attempts, later.event) == ("pending", 0, None)
        assert later.due_at >= row.due_at
        heart.server.webhooks.due.clear()
        heart.server.calls.let_go(call_id)
        await heart.server.webhooks.due.wait()
        [row] = await deliveries(heart)
        assert row.due_at <= time.time()
        assert (await send(heart, receiver)).verified(secret)["data"]["inputs"] == 1

    listening(tmp_path, scenario)


def test_the_end_of_an_app_ends_its_calls_and_is_told(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        _, secret = await hook(heart, receiver)
        call = await heart.call(function_id)
        await heart.server.apps.stop(call.pool.function.app_id, "for the test")
        said = (await send(heart, receiver)).verified(secret)
        assert said["type"] == "function_call.cancelled"
        assert "for the test" in said["data"]["error"]["message"]

    listening(tmp_path, scenario)


def test_the_methods_of_a_class_are_told_apart(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define("Model.*")
        for method in ("run", "stop"):
            await hook(heart, receiver, f"Model.{method}", app="Model.*")
        task = await node.ready(function_id)
        item = api_pb2.FunctionPutInputsItem(input=api_pb2.FunctionInput(args=b"", method_name="run"))
        request = api_pb2.FunctionMapRequest(function_id=function_id, pipelined_inputs=[item])
        await heart.server.calls.start(request, "key")
        [[(input_id, _)]] = await node.next_delivered()
        await node.answer(task, input_id)
        for row in await deliveries(heart):
            await heart.server.webhook_deliveries.deliver(row.delivery_id)
        received = await asyncio.to_thread(receiver.next)
        assert json.loads(received.body)["data"]["function"] == "Model.run"
        assert receiver.is_quiet
        assert [row.state for row in await deliveries(heart)] == ["delivered"]

    listening(tmp_path, scenario)


def test_the_loop_sends_by_itself_and_no_receiver_takes_all_the_room(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define(max_concurrent_inputs=50)
        await hook(heart, receiver)
        task = await node.ready(function_id)
        for number in range(10):
            await heart.call(function_id, key=str(number), invocation=ASYNC)
        done = 0
        while done < 10:
            for message in await node.next_delivered():
                for input_id, attempt in message:
                    await node.answer(task, input_id, attempt)
                    done += 1
        loop = heart.server.webhook_loop
        loop.wake.clear()
        assert (await loop.run_once()).started == 4
        while heart.server.webhook_deliveries.outcomes["delivered"] < 10:
            await loop.wake.wait()
            loop.wake.clear()
            await loop.run_once()
        told = {(await asyncio.to_thread(receiver.next)).delivery_id for _ in range(10)}
        assert len(told) == 10 and receiver.is_quiet
        await loop.run_once()
        assert heart.server.webhook_deliveries.pending == 0
        assert {row.state for row in await deliveries(heart)} == {"delivered"}
        assert 'pilotlight_webhook_attempts_total{outcome="delivered"} 10.0' in heart.server.overview.metrics()

    listening(tmp_path, scenario)


def test_a_secret_is_shown_once_and_sealed(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        _, secret = await hook(heart, receiver)
        await heart.server.database.write(lambda connection: None)
        stored = b"".join((tmp_path / name).read_bytes() for name in ("pilotlight.db", "pilotlight.db-wal"))
        assert receiver.url().encode() in stored
        raw = heart.server.webhooks.secret_of(heart.server.webhooks.list()[0])
        assert len(raw) == 32
        assert raw not in stored
        assert secret.removeprefix("whsec_").encode() not in stored

    listening(tmp_path, scenario)


def test_a_lost_key_is_said_and_the_delivery_waits(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        await hook(heart, receiver)
        await finish(heart, node, function_id)
        await heart.close()
        (tmp_path / "keys" / "webhooks.key").unlink()
        await heart.open()
        [row] = await deliveries(heart)
        await heart.server.webhook_deliveries.deliver(row.delivery_id)
        [row] = await deliveries(heart)
        assert row.state == "pending"
        assert "keys/webhooks.key" in row.problem
        assert receiver.is_quiet

    listening(tmp_path, scenario)


def test_removing_takes_the_deliveries_along(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        webhook, _ = await hook(heart, receiver)
        await finish(heart, node, function_id)
        assert await heart.server.webhooks.remove(webhook.webhook_id) == 1
        assert await deliveries(heart) == []
        assert heart.server.webhooks.list() == []
        with pytest.raises(errors.NotFound, match="webhook list"):
            await heart.server.webhooks.remove(webhook.webhook_id)
        await heart.restart()
        assert heart.server.webhooks.list() == []

    listening(tmp_path, scenario)


def test_webhooks_go_with_their_environment(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        await heart.server.environments.create("staging")
        await heart.server.webhooks.add("f", "", "staging", receiver.url())
        await hook(heart, receiver)
        await heart.server.environments.delete("staging")
        assert [heart.server.webhooks.environment_name(webhook) for webhook in heart.server.webhooks.list()] == ["main"]

    listening(tmp_path, scenario)


def test_old_deliveries_are_forgotten_but_none_that_waits(tmp_path: Path, receiver: Receiver) -> None:
    async def scenario(heart: Heart, node: FakeNode) -> None:
        function_id = await heart.define()
        await hook(heart, receiver)
        await finish(heart, node, function_id, key="1")
        await send(heart, receiver)
        await finish(heart, node, function_id, key="2")
        assert await heart.server.webhooks.collect() == 0
        await heart.server.database.write(
            lambda connection: connection.execute(text("UPDATE webhook_deliveries SET created_at = 1"))
        )
        assert await heart.server.webhooks.collect() == 1
        assert [row.state for row in await deliveries(heart)] == ["pending"]

    listening(tmp_path, scenario)
