"""Containers that die one after the other: ever rarer while nobody waits, at once for who does, and seen by all."""

import asyncio
from pathlib import Path

from heart import ASYNC, Heart, beat
from modal_proto import api_pb2
from test_scaling_on_rows import Scaler, begin

from pilotlight.control.output_log import Filter
from pilotlight.core import retries
from pilotlight.core.tasks import TaskState


async def crash(heart: Heart, scaler: Scaler, *, ready: bool) -> None:
    [task] = scaler.of("warm", TaskState.STARTING)
    if ready:
        scaler.ready([task])
    await scaler._node.exit(task, exit_code=1)  # pyright: ignore[reportPrivateUsage]


def crashing(heart: Heart) -> list[tuple[str, int, str]]:
    return [(entry["function"], entry["crashes"], entry["why"]) for entry in heart.server.overview.document()["crashing"]]


async def warm(heart: Heart) -> str:
    return await heart.define("warm", autoscaler_settings=api_pb2.AutoscalerSettings(min_containers=1), warm_pool_size=1)


def test_what_is_kept_warm_and_keeps_dying_is_started_ever_more_rarely(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        _, scaler = await begin(heart)
        pool = await heart.pool(await warm(heart))
        heart.server.pools.touch(pool)
        wait_s = 0.0
        for number in range(1, 9):
            if wait_s:
                scaler.ahead_s = wait_s / 2
                heart.server.pools.touch(pool)
                assert await scaler.run() == [], number
            scaler.ahead_s = max(wait_s, retries.STARTUP_BACKOFF_S[-1])
            heart.server.pools.touch(pool)
            assert await scaler.run() == ["warm"], number
            await crash(heart, scaler, ready=number % 2 == 0)
            wait_s = retries.crash_backoff_s(number)
        assert crashing(heart) == [("warm", 8, "exit code 1")]
        assert "pilotlight_functions_crashing 1.0" in heart.server.overview.metrics()
        batches = await heart.server.output_log.fetch(Filter(pool.function.app_id, search="in a row"), None, None, 0)
        assert len([item for batch in batches for item in batch.items]) == 8 - retries.CRASH_LOOP + 1

    beat(tmp_path, scenario)


def test_who_waits_gets_a_container_at_once_and_a_success_ends_the_loop(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        function_id = await warm(heart)
        pool = await heart.pool(function_id)
        for _ in range(6):
            heart.server.pools.touch(pool)
            scaler.ahead_s = retries.LONGEST_CRASH_BACKOFF_S
            assert await scaler.run() == ["warm"]
            await crash(heart, scaler, ready=True)
        scaler.ahead_s = 0.0
        assert await scaler.run() == []
        await heart.call(function_id, invocation=ASYNC)
        assert await scaler.run() == ["warm"]
        [task] = scaler.of("warm")
        scaler.ready([task])
        [input_id] = task.held  # which it took along to its start
        assert crashing(heart)
        assert not await node.answer(task, input_id)
        assert not crashing(heart)

    beat(tmp_path, scenario)


def test_a_new_version_starts_with_a_clean_slate(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        _, scaler = await begin(heart)
        function_id = await warm(heart)
        pool = await heart.pool(function_id)
        for _ in range(4):
            heart.server.pools.touch(pool)
            scaler.ahead_s = retries.LONGEST_CRASH_BACKOFF_S
            assert await scaler.run() == ["warm"]
            await crash(heart, scaler, ready=True)
        scaler.ahead_s = 0.0
        assert crashing(heart) and await scaler.run() == []
        await heart.redefine("warm", function_id, warm_pool_size=1)
        assert not crashing(heart)
        assert pool.calm_until < asyncio.get_running_loop().time()

    beat(tmp_path, scenario)
