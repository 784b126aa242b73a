"""What a modal.Server has done within a span of time, from the rows of its requests and containers."""

import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from heart import FakeNode, Heart, beat
from modal_proto import api_pb2
from sqlalchemy import Connection

from pilotlight.core import errors, timelines
from pilotlight.rpc.servers import ServerHandlers
from pilotlight.store import web_requests as rows
from pilotlight.wire import platform_pb2


def test_requests_by_status_and_the_containers_that_served_them(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        server, now = heart.server, time.time()
        answered = [(200, 0.1, task.task_id), (200, 0.3, task.task_id), (502, 0.2, "ta-other")]
        server.web_requests.keep(
            [
                platform_pb2.WebRequest(
                    function_id=function_id, task_id=task_id, status=status, seconds=seconds, began_at_ns=int((now - 1) * 1e9)
                )
                for status, seconds, task_id in answered
            ]
        )
        await server.database.write(lambda connection: None)  # what was written before is on disk then
        await server.output_database.write(lambda connection: None)
        handlers: Any = ServerHandlers(server.web_requests, server.statistics)

        async def stats(since: float, until: float, container_id: str = "") -> api_pb2.ServerGetTimeRangeStatsResponse:
            request = api_pb2.ServerGetTimeRangeStatsRequest(
                function_id=function_id,
                since=Timestamp(seconds=int(since)),
                until=Timestamp(seconds=int(until)),
                container_id=container_id,
            )
            return await handlers.ServerGetTimeRangeStats(None, request)

        lately = await stats(now - 100, now + 100)
        assert {item.status_code: item.count for item in lately.request_count_by_status_code} == {200: 2, 502: 1}
        assert lately.request_count == 3 and lately.request_rate_per_second == 3 / 200
        durations = lately.request_percentile_stats["Duration (s)"]
        assert durations.unit == "s"
        assert {item.percentile_basis_points: round(item.value, 3) for item in durations.percentiles}[5_000] == 0.2
        assert (lately.container_started_count, lately.container_total_count, lately.container_error_count) == (1, 1, 0)
        assert (await stats(now - 100, now + 100, task.task_id)).request_count == 2
        before = await stats(now - 1_000, now - 500)
        assert before.request_count == before.container_total_count == 0

    beat(tmp_path, scenario)


def test_requests_by_buckets_of_time(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(is_server=True)
        task = await node.ready(function_id)
        server = heart.server
        minute = int(time.time()) // 60 * 60
        server.web_requests.keep(
            [
                platform_pb2.WebRequest(
                    function_id=function_id, task_id=task.task_id, status=status, seconds=0.25, began_at_ns=int(at * 1e9)
                )
                for status, at in ((200, minute - 121), (200, minute - 61), (503, minute - 61), (200, minute + 1))
            ]
        )
        await server.output_database.write(lambda connection: None)  # what was written before is on disk then
        buckets, groups = timelines.window(minute - 180, minute, None), timelines.chosen(timelines.OF_SERVERS, ["requests"])
        series = {one.name: one.values for one in await server.timelines.of_server(function_id, buckets, groups)}
        assert series["requests_count"] == [1, 2, 0] and series["failed_requests_count"] == [0, 1, 0]
        assert series["request_time_p99"] == [0.25, 0.25, None]
        with pytest.raises(errors.InvalidInput, match=r"plain is no modal\.Server"):
            await server.timelines.of_server(await heart.define("plain"), buckets, groups)
        every = await server.timelines.of_server(function_id, buckets, timelines.OF_SERVERS)
        assert len(every) == sum(len(family.names) for families in timelines.OF_SERVERS.values() for family in families)

    beat(tmp_path, scenario)


def test_since_when_no_request_is_missing(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        database = heart.server.output_database

        def keep(*spans: tuple[float, float]) -> Awaitable[float]:
            """Requests (at, seconds) in the order in which they ended, of which two are kept."""
            columns = {"function_id": "fu-1", "task_id": "ta-1", "route": "GET /", "status": 200}
            requests = [columns | {"at": at, "seconds": seconds} for at, seconds in spans]

            def work(connection: Connection) -> float:
                rows.insert_requests(connection, requests, 2)
                return rows.kept_since(connection)

            return database.write(work)

        assert await keep((100.0, 1.0), (90.0, 20.0)) == 0.0
        # The one that began at 100 is gone: from 90 on, when the oldest that is left began, some are missing.
        assert await keep((105.0, 8.0)) == 110.0

    beat(tmp_path, scenario)
