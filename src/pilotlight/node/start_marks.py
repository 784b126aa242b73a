"""When a container's start reached each of its steps: one line in the log per container, with which a slow start is explained.

Owns one invariant: a step counts when it is first reached. Costs a reading of the clock per step, and the line once the first input
is answered, after its output has left: nothing of it is on the way of a call.
"""

import time
from collections.abc import Mapping

import structlog

log = structlog.get_logger()

# In this order, each after the one before: of a container that asks for inputs. Only a forked one is "told"; it may speak before
# it is noted here that it has "started".
STEPS = ("prepared", "told", "started", "greeted", "asked", "given", "answered")


class StartMarks:
    """The steps of one container's start, from the server's request on."""

    def __init__(self) -> None:
        self._received_ns = time.time_ns()
        self._reached_ns: dict[str, int] = {}
        self._is_told = False

    def reach(self, step: str, at_ns: int = 0) -> bool:
        """The start is at this step (one of STEPS) now, or was `at_ns`; False if it was there before."""
        if self._is_told or step in self._reached_ns:
            return False
        self._reached_ns[step] = at_ns or time.time_ns()
        return True

    def tell(self, task_id: str, setup_ms: Mapping[str, float]) -> None:
        """Write the line, the first time that this is called: milliseconds from the request to each step, and of each part of the
        set-up."""
        if self._is_told:
            return
        self._is_told = True
        reached_ms = {step: round((at_ns - self._received_ns) / 1e6, 2) for step, at_ns in self._reached_ns.items()}
        setup = {part: round(took_ms, 2) for part, took_ms in setup_ms.items()}
        log.info("task_began", task_id=task_id, received_ns=self._received_ns, reached_ms=reached_ms, setup_ms=setup)
