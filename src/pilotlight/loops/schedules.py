"""Starts the calls of functions whose time has come."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from pilotlight.control.schedules import Schedules


@dataclass(slots=True)
class Report:
    """What a pass did."""

    fired: int


class ScheduleLoop:
    """Sleeps until the next due time; looks now and then anyway, since clocks are set."""

    name = "schedules"
    interval_s = 20.0
    calm_s = 0.0

    def __init__(self, schedules: Schedules, now: Callable[[], float] = time.time) -> None:
        self._schedules = schedules
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self.wake = asyncio.Event()
        schedules.on_change = self.wake.set

    async def run_once(self) -> Report:
        """Fire what is due, and set the alarm for the next."""
        try:
            return Report(await self._schedules.fire_due())
        finally:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._schedules.next_due()
        if due is not None and (wait_s := due - self._now()) < self.interval_s:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait_s), self.wake.set)
