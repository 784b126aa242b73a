"""Moments in which no container begins on this machine: the time for work that nobody waits for.

Owns one invariant: such work is put off, never off for good: whoever waits here names the longest that it may take. All of it runs
on the event loop.
"""

import asyncio
import contextlib

BEGINNING_S = 0.5  # for so long a container counts as beginning that answers nothing, since it may have nothing to answer
REST_S = 0.02  # after the last one: another may follow


class Quiet:
    """Who begins right now. Times are the loop's."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._last = 0.0
        self._nobody = asyncio.Event()

    def begins(self, container_id: str) -> None:
        """A container is being started."""
        self._since[container_id] = asyncio.get_running_loop().time()
        self._nobody.clear()

    def has_begun(self, container_id: str) -> None:
        """It has answered for the first time, or has ended, or never began. Safe to repeat."""
        if self._since.pop(container_id, None) is not None:
            self._last = asyncio.get_running_loop().time()
            if not self._since:
                self._nobody.set()

    async def wait(self, at_latest_s: float) -> None:
        """Return when no container begins, or after that time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + at_latest_s
        while (left := min(end, self._busy_until()) - loop.time()) > 0:
            if self._since:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._nobody.wait(), left)
            else:
                await asyncio.sleep(left)

    def _busy_until(self) -> float:
        return max(self._last + REST_S, *(since + BEGINNING_S for since in self._since.values()), 0.0)
