"""Parameter and option sets that nobody has used for a while leave the memory; the next call brings them back from their rows."""

import asyncio

from pilotlight.control.autoscalers import Autoscalers
from pilotlight.control.calls import Calls
from pilotlight.control.functions import Functions
from pilotlight.control.live import Pool
from pilotlight.control.pools import Pools

IDLE_POOL_S = 600.0


class IdlePools:
    """Lives on the event loop's thread."""

    def __init__(self, *, pools: Pools, calls: Calls, functions: Functions, autoscalers: Autoscalers) -> None:
        self._pools = pools
        self._calls = calls
        self._functions = functions
        self._autoscalers = autoscalers

    async def collect(self) -> int:
        """Let go of those that have nothing and are asked for by nobody; returns how many."""
        before = asyncio.get_running_loop().time() - IDLE_POOL_S
        idle = [pool for pool in self._pools if pool.used_at < before and self._is_idle(pool)]
        if not idle:
            return 0
        needed = self._calls.pools()
        count = 0
        for pool in idle:
            if pool not in needed:
                self._pools.drop(pool)
                self._functions.forget_one(pool.function_id)
                self._autoscalers.forget(pool.function_id)
                count += 1
        return count

    def _is_idle(self, pool: Pool) -> bool:
        if pool.function.parent_id is None or pool.is_web or pool.closed:
            return False
        has_something = pool.tasks or pool.queue or pool.web_waiting
        return not has_something and not self._autoscalers.settings_of(pool.function).min_containers
