"""Pools that want a container for which there is no place: their programs' authors are told why, and in the end the inputs fail.

What can never fit fails after a time, or at once where the operator wishes it so; what merely waits for its turn waits.
"""

import asyncio
from collections.abc import Callable

import structlog
from modal_proto import api_pb2

from pilotlight.control.calls import Calls
from pilotlight.control.live import Pool
from pilotlight.control.output_log import OutputLog
from pilotlight.core.placement import Unplaced

log = structlog.get_logger()

Result = api_pb2.GenericResult


class UnplacedPools:
    """Lives on the event loop's thread."""

    def __init__(self, *, calls: Calls, output_log: OutputLog, patience_s: float) -> None:
        """`patience_s`: for how long inputs wait that no node can ever run; 0: not at all."""
        self._calls = calls
        self._output_log = output_log
        self._patience_s = patience_s
        self._failing: set[asyncio.Task[None]] = set()
        self.is_settled: Callable[[], bool] = lambda: True  # whether all nodes that we know of are here
        self.on_failure: Callable[[Pool, str], None] = lambda pool, why: None
        self.failed_total = 0

    def note(self, pool: Pool, unplaced: Unplaced, now: float) -> float | None:
        """There is no place; returns in how many seconds its inputs have waited long enough (None: no time is too long)."""
        if unplaced.momentary:
            return None
        if pool.why_waiting != unplaced.why and pool.waiting:
            self._say(pool, f"Function {pool.function.tag} waits: {unplaced.why}\n")
            log.info("pool_waits", function_id=pool.function_id, why=unplaced.why, inputs=pool.waiting)
        pool.why_waiting = unplaced.why
        if not (unplaced.never and pool.waiting and self.is_settled()):
            pool.unplaceable_since = None
            return None
        if pool.unplaceable_since is None:
            pool.unplaceable_since = now
        if (left_s := pool.unplaceable_since + self._patience_s - now) > 0:
            return left_s
        self._fail(pool, unplaced.why)
        return None

    def clear(self, pool: Pool) -> None:
        """It has what it wants, or a place for it."""
        pool.why_waiting = ""
        pool.unplaceable_since = None

    def _fail(self, pool: Pool, why: str) -> None:
        text = f"Function {pool.function.tag!r} can't run here: it {why}."
        self._say(pool, text + "\n")
        log.warning("pool_unplaceable", function_id=pool.function_id, why=why, inputs=pool.waiting)
        doomed = list(pool.queue)
        self.failed_total += len(doomed)
        pool.unplaceable_since = None
        self.on_failure(pool, text)
        result = Result(status=Result.GENERIC_STATUS_INIT_FAILURE, exception=text)
        failing = asyncio.get_running_loop().create_task(self._calls.fail(doomed, result))
        self._failing.add(failing)
        failing.add_done_callback(self._failing.discard)

    def _say(self, pool: Pool, text: str) -> None:
        function = pool.function
        self._output_log.say(function.app_id, function.function_id, "", text, function.parent_id or "")
