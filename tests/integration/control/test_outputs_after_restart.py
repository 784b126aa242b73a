"""Outputs of calls that were made before a restart: they are on disk only, and their caller's cursor is from before."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from heart import MAP, FakeNode, Heart, beat

from pilotlight.store import calls as rows


def test_an_output_that_is_slow_to_reach_the_disk_still_wakes_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call_id = (await heart.call(function_id, kind=MAP)).call_id
        await heart.restart()
        await node.connect()
        task = await node.ready(function_id)
        [[(input_id, _)]] = await node.next_delivered()
        waiting = asyncio.ensure_future(heart.outputs(call_id, timeout_s=50))
        may_write, real = threading.Event(), rows.insert_outputs

        def slow(*arguments: Any) -> None:
            may_write.wait()
            real(*arguments)

        monkeypatch.setattr(rows, "insert_outputs", slow)
        answering = asyncio.ensure_future(node.answer(task, input_id))
        # Whoever looked at the disk by now has found nothing there.
        assert not (await heart.outputs(call_id)).items
        may_write.set()
        await answering
        async with asyncio.timeout(25):
            assert len((await waiting).items) == 1

    beat(tmp_path, scenario)


def test_a_cursor_from_before_a_restart_is_never_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller was shown an output that never reached the disk: what is numbered after the restart must still be new to it."""

    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call_id = (await heart.call(function_id, kind=MAP, count=2)).call_id
        [[(first, _)]] = node.delivered()
        waiting = asyncio.ensure_future(heart.outputs(call_id, timeout_s=50))
        real = rows.insert_outputs

        def lost(*_: Any) -> None:
            raise OSError("the power went")

        monkeypatch.setattr(rows, "insert_outputs", lost)
        await node.answer(task, first)
        cursor = (await waiting).last_seq
        monkeypatch.setattr(rows, "insert_outputs", real)
        await heart.restart()
        await node.connect()
        task = await node.ready(function_id)
        delivered = await node.next_delivered()
        await node.answer(task, delivered[0][0][0])
        assert len((await heart.outputs(call_id, after=cursor)).items) == 1

    beat(tmp_path, scenario)
