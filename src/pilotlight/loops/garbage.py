"""Sweeps now and then; `pilotlight gc` does the same at once."""

import asyncio

from pilotlight.control.garbage import Collected, Garbage

INTERVAL_S = 3600.0


class GarbageLoop:
    """Removes what nothing refers to any more."""

    name = "garbage"
    interval_s = INTERVAL_S
    calm_s = 0.0

    def __init__(self, garbage: Garbage) -> None:
        self._garbage = garbage
        self.wake = asyncio.Event()

    async def run_once(self) -> list[Collected]:
        """One sweep."""
        return await self._garbage.collect()
