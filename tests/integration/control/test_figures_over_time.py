"""What is told of functions over time, from rows: what is read for it, and what is not known."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from heart import UNARY, FakeNode, Heart, beat
from modal_proto import api_pb2
from sqlalchemy import Connection, event

from pilotlight.control import timelines as control
from pilotlight.control.call_lists import CallLists
from pilotlight.control.statistics import Span
from pilotlight.control.timelines import Series, Timelines
from pilotlight.core import errors, timelines
from pilotlight.core.timelines import OF_FUNCTIONS, Window
from pilotlight.rpc.timelines import TimelineHandlers
from pilotlight.store import statistics as rows


async def answered(heart: Heart, node: FakeNode) -> str:
    """A function that has had one input, which ran for two seconds; returns its id."""
    function_id = await heart.define()
    task = await node.ready(function_id)
    await heart.call(function_id, kind=UNARY)
    [[(input_id, _)]] = await node.next_delivered()
    await node.answer(task, input_id, took_s=2.0)
    await heart.server.database.write(lambda connection: None)  # what was written before is on disk then
    return function_id


def test_times_are_told_without_a_look_at_results(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await answered(heart, node)
        server, now, asked = heart.server, time.time(), list[str]()

        def note(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
            asked.append(statement)

        event.listen(server.database.engine, "before_cursor_execute", note)
        report = await server.statistics.of_function(function_id, Span(now - 60, now + 60), with_variants=False)
        assert [round(seconds, 3) for seconds in report.execution_s] == [2.0] and len(report.latency_s) == 1
        buckets = timelines.window(now - 600, now + 120, 60)
        server.timelines._now = lambda: now + 120  # pyright: ignore[reportPrivateUsage]
        series = await server.timelines.of_function(function_id, buckets, OF_FUNCTIONS, with_variants=True)
        longest = next(one.values for one in series if one.name == "execution_time_max")
        assert [round(value, 3) for value in longest if value is not None] == [2.0]
        lists = CallLists(database=server.database, functions=server.functions, pools=server.pools)
        [info] = await lists.newest(function_id, 10, with_variants=False)
        assert round(info.execution_time_seconds, 3) == 2.0 and info.HasField("started_at")
        assert asked and not [statement for statement in asked if "item" in statement or "payload" in statement]

    beat(tmp_path, scenario)


def test_only_containers_of_the_function_are_read_and_not_too_many_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        for _ in range(2):
            await node.ready(function_id)
        await heart.server.database.write(lambda connection: None)  # what was written before is on disk then
        now = time.time()
        record = await heart.server.functions.get(function_id)

        def within(connection: Connection) -> list[int]:
            span = (record.app_id, now - 60, now + 60)
            mine, others = rows.tasks_within(connection, *span, [function_id]), rows.tasks_within(connection, *span, ["fu-other"])
            return [len(list(mine)), len(list(others))]

        assert await heart.server.database.read_long(within) == [2, 0]
        buckets = timelines.window(now - 600, now + 120, 60)
        monkeypatch.setattr(control, "MOST_CONTAINERS", 2)
        assert await heart.server.timelines.of_function(function_id, buckets, OF_FUNCTIONS, with_variants=False)
        monkeypatch.setattr(control, "MOST_CONTAINERS", 1)
        with pytest.raises(errors.InvalidInput, match=r"More than 1 containers.*shorter"):
            await heart.server.timelines.of_function(function_id, buckets, OF_FUNCTIONS, with_variants=False)

    beat(tmp_path, scenario)


def test_nothing_is_known_of_calls_where_requests_are_all_that_comes(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        web = api_pb2.WebhookConfig(type=api_pb2.WEBHOOK_TYPE_ASGI_APP)
        plain, asgi = await heart.define("plain"), await heart.define("asgi", webhook_config=web)
        buckets = timelines.window(time.time() - 600, time.time(), 60)
        for function_id, value in ((plain, 0), (asgi, None)):
            series = await heart.server.timelines.of_function(function_id, buckets, OF_FUNCTIONS, with_variants=False)
            values = {one.name: one.values[1] for one in series}
            assert (values["new_calls_count"], values["failed_calls_count"]) == (value, value)
            assert values["started_containers_count"] == 0 and values["latency_p50"] is None

    beat(tmp_path, scenario)


def test_messages_of_many_points_are_not_made_while_calls_wait() -> None:
    makers: list[threading.Thread] = []

    class Values(list[float | None]):
        def __iter__(self) -> Iterator[float | None]:
            makers.append(threading.current_thread())
            return super().__iter__()

    class Known:
        async def of_function(self, _function_id: str, buckets: Window, *_: object, **__: object) -> list[Series]:
            return [Series("calls", "calls", "All.", Values(1.0 for _ in buckets.starts))]

    async def ask() -> api_pb2.FunctionGetMetricsResponse:
        handlers: Any = TimelineHandlers(cast(Timelines, Known()))
        request = api_pb2.FunctionGetMetricsRequest(since=Timestamp(seconds=600), until=Timestamp(seconds=780))
        return await handlers.FunctionGetMetrics(None, request)

    reply = asyncio.run(ask())
    assert (reply.since.seconds, reply.until.seconds, reply.bucket_secs) == (600, 780, 60)
    assert [(point.timestamp.seconds, point.value) for point in reply.series[0].points] == [(600, 1), (660, 1), (720, 1)]
    assert makers and threading.main_thread() not in makers
