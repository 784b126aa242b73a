"""What is told of functions over time, from rows: what is read for it, and what is not known."""

import time
from pathlib import Path
from typing import Any

from heart import UNARY, FakeNode, Heart, beat
from sqlalchemy import event

from pilotlight.control.call_lists import CallLists
from pilotlight.control.statistics import Span
from pilotlight.core import timelines
from pilotlight.core.timelines import OF_FUNCTIONS


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
