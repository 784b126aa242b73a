"""The machine's clock is set while the platform runs: nobody is taken for gone, nothing is thrown away before its time."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from heart import ASYNC, FakeNode, Heart, beat
from modal_proto import api_pb2

from pilotlight.control.output_log import Filter, Printed

DAY_S = 86_400.0


def set_clock(heart: Heart, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """From now on every new look at the wall clock is so far off; those who hold `time.time` itself have it from the module."""
    real = time.time
    jumped: Callable[[], float] = lambda: real() + ahead_s  # noqa: E731 - a clock
    for holder in (heart.server.apps, heart.server.calls, heart.server.output_log, heart.server.tasks):
        monkeypatch.setattr(holder, "_now", jumped)
    monkeypatch.setattr(heart.server.clock, "_wall", jumped)


@pytest.mark.parametrize("ahead_s", [400 * DAY_S, -400 * DAY_S])
def test_results_apps_and_output_outlast_a_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        server = heart.server
        request = api_pb2.AppCreateRequest(description="eph", app_state=api_pb2.APP_STATE_EPHEMERAL)
        ephemeral = await server.apps.create(request, "1.6.4", "eph")
        function_id = await heart.define()
        task = await node.ready(function_id)
        app_id = task.pool.function.app_id
        before = await heart.call(function_id, key="before", invocation=ASYNC)
        [[(input_id, _)]] = node.delivered()
        assert not await node.answer(task, input_id)
        server.output_log.append(app_id, function_id, task.task_id, [Printed(1, "before\n", time.time())])
        set_clock(heart, monkeypatch, ahead_s)
        after = await heart.call(function_id, key="after", invocation=ASYNC)
        [[(input_id, _)]] = await node.next_delivered()
        assert not await node.answer(task, input_id)
        report = await server.expire_loop().run_once()
        assert not report.counts["abandoned_apps"] and not report.counts["expired_calls"] and not report.counts["old_output"]
        assert server.apps.heartbeat(ephemeral.app_id)
        for call in (before, after):
            assert len((await heart.outputs(call.call_id)).items) == 1
        assert len(await server.output_log.fetch(Filter(app_id, file_descriptor=1), None, None, 0)) == 1

    beat(tmp_path, scenario)


def test_a_client_that_is_silent_is_gone_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        request = api_pb2.AppCreateRequest(description="eph", app_state=api_pb2.APP_STATE_EPHEMERAL)
        app = await heart.server.apps.create(request, "1.6.4", "eph")
        set_clock(heart, monkeypatch, -DAY_S)
        monkeypatch.setattr(heart.server.clock, "_elapsed", lambda: time.monotonic() + 61)
        assert await heart.server.apps.stop_abandoned() == 1
        assert not heart.server.apps.heartbeat(app.app_id)

    beat(tmp_path, scenario)
