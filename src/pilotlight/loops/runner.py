"""How every loop runs: at intervals, or at once when woken; a pass that fails is logged and followed by the next."""

import asyncio
import random
from contextlib import suppress
from typing import Protocol

import structlog

log = structlog.get_logger()

JITTER = 0.1  # of the interval
PAUSE_AFTER_FAILURE_S = 1.0


class Reconciler(Protocol):
    """Something that compares what is with what should be, and acts on the difference."""

    name: str
    interval_s: float
    calm_s: float  # at least this long between two passes, however often it is woken: the first wake-up is never kept waiting
    wake: asyncio.Event

    async def run_once(self) -> object:
        """One pass over the truth; returns a report for the log."""
        ...


async def run(loop: Reconciler, chance: random.Random) -> None:
    """Run passes until cancelled."""
    while True:
        pause_s = loop.interval_s * (1 + JITTER * (2 * chance.random() - 1))
        with suppress(TimeoutError):  # the interval is over: look without being asked
            await asyncio.wait_for(loop.wake.wait(), pause_s)
        loop.wake.clear()
        try:
            report = await loop.run_once()
        except Exception as error:
            log.error("loop_failed", loop=loop.name, exc_info=error)
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
        else:
            log.debug("loop_ran", loop=loop.name, report=report)
            if loop.calm_s:
                await asyncio.sleep(loop.calm_s)
