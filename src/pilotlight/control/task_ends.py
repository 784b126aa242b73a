"""What follows from the end of a container.

Whatever happened to it, the inputs that it held go back to their queue or end with an output that says why.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from modal_proto import api_pb2

from pilotlight.control.calls import Calls
from pilotlight.control.crash_loops import note_death
from pilotlight.control.live import LiveInput, LiveTask, Pool
from pilotlight.control.output_log import OutputLog
from pilotlight.control.pools import Pools
from pilotlight.core import retries
from pilotlight.core.tasks import TaskState
from pilotlight.store import calls as call_rows
from pilotlight.store import tasks as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

Result = api_pb2.GenericResult


class TaskEnds:
    """Lives on the event loop's thread."""

    def __init__(self, *, database: Database, pools: Pools, calls: Calls, output_log: OutputLog, now: Callable[[], float]) -> None:
        self._database = database
        self._pools = pools
        self._calls = calls
        self._output_log = output_log
        self._now = now
        self.seconds_total = 0.0  # of containers that have ended
        self.on_startup_failure: Callable[[Pool, str], None] = lambda pool, why: None

    async def settle(self, task: LiveTask, event: platform_pb2.TaskExited) -> None:
        """A container has gone: give back what it held, learn from it, close its books."""
        expected = bool(task.stop_reason) or event.reason in ("stopped", "input_timeout")
        if not expected:
            self._note_death(task, event)
        log.info("task_exited", task_id=task.task_id, exit_code=event.exit_code, reason=event.reason, expected=expected)
        await self._return_inputs(task, event, innocent=expected)
        if not task.ready_at and not expected:
            await self._startup_failed(task, event)
        self._pools.touch(task.pool)
        self._close_books(task, event)

    def _note_death(self, task: LiveTask, event: platform_pb2.TaskExited) -> None:
        why = event.message or (task.failure.exception if task.failure is not None else "") or how_it_ended(event)
        lived_s = self._now() - task.ready_at if task.ready_at else 0.0
        if text := note_death(task.pool, why, lived_s, asyncio.get_running_loop().time()):
            self.say(task, text)

    async def _return_inputs(self, task: LiveTask, event: platform_pb2.TaskExited, *, innocent: bool) -> None:
        held = list(task.held.values())
        fatal: list[LiveInput] = []
        counted: list[tuple[str, int]] = []
        suspects = held[: task.slots] if task.ready_at else []  # those after them, or before it was ready, had not begun
        for item in reversed(held):
            if not innocent and item in suspects:
                item.deaths += 1
                counted.append((item.input_id, item.deaths))
            if item.call.cancelled or task.pool.closed or item.deaths >= retries.DEATHS_LIMIT:
                fatal.append(item)
            else:
                self._pools.give_back(item)
        if counted:
            self.say(task, f"Container {task.task_id} died: {how_it_ended(event)}\n")
            self._database.write_unattended(lambda connection: call_rows.set_deaths(connection, counted), "deaths with an input")
        cancelled = [item for item in fatal if item.call.cancelled or task.pool.closed]
        killers = [item for item in fatal if item not in cancelled]
        await self._calls.fail(cancelled, Result(status=Result.GENERIC_STATUS_TERMINATED), task.task_id)
        if killers:
            last = f"The last one, {task.task_id}: {how_it_ended(event)}"
            text = f"{retries.DEATHS_LIMIT} containers died while they ran this input. {last}"
            result = Result(
                status=Result.GENERIC_STATUS_FAILURE, exception=text + last_output(event.last_lines), exitcode=event.exit_code
            )
            await self._calls.fail(killers, result, task.task_id, may_retry=True)
        self._pools.pump(task.pool)

    async def _startup_failed(self, task: LiveTask, event: platform_pb2.TaskExited) -> None:
        pool = task.pool
        is_patient = event.reason == "disk_full"  # no fault of the function's: what was accepted waits for room, however long
        pool.startup_failures += 1
        pool.startup_faults += not is_patient
        pool.not_before = asyncio.get_running_loop().time() + retries.startup_backoff_s(pool.startup_failures)
        tries = f"attempt {pool.startup_faults} of {retries.STARTUP_FAILURES_LIMIT}" if not is_patient else "it is tried again"
        if task.failure is None:
            self.say(task, f"Container {task.task_id} could not start ({tries}): {event.message or how_it_ended(event)}\n")
        is_hopeless = task.failure is not None or event.reason == "cannot_run"
        if is_patient or (not is_hopeless and pool.startup_faults < retries.STARTUP_FAILURES_LIMIT):
            return
        after = "" if is_hopeless else f" after {pool.startup_faults} tries"
        text = f"Function {pool.function.tag!r} could not start{after}: {pool.last_failure}"
        result = task.failure or Result(
            status=Result.GENERIC_STATUS_INIT_FAILURE, exception=text + last_output(event.last_lines), exitcode=event.exit_code
        )
        pool.startup_failures = pool.startup_faults = 0
        if pool.rolling:
            pool.rolling = False
            self.say(task, "The new version can't start; containers of the one before go on serving.\n")
        self.on_startup_failure(pool, pool.last_failure)
        await self._calls.fail(list(pool.queue), result, task.task_id)

    def _close_books(self, task: LiveTask, event: platform_pb2.TaskExited) -> None:
        self.seconds_total += self._now() - (task.started_at or self._now())
        self._output_log.wake(task.pool.function.app_id)
        values = {
            "state": TaskState.FINISHED.value,
            "finished_at": self._now(),
            "exit_code": event.exit_code,
            "reason": task.stop_reason or event.reason,
            "message": event.message,
            "cpu_seconds": event.cpu_seconds,
            "peak_memory_bytes": event.peak_memory_bytes,
        }
        self._database.write_unattended(
            lambda connection: store.update_task(connection, task.task_id, **values), "the end of a container"
        )
        if task.pool.closed:
            self._pools.drop(task.pool)

    def say(self, task: LiveTask, text: str) -> None:
        """A line of ours in the program's own log, where its author looks."""
        function = task.pool.function
        self._output_log.say(function.app_id, function.function_id, task.task_id, text, function.parent_id or "")


def how_it_ended(event: platform_pb2.TaskExited) -> str:
    """Half a sentence."""
    if event.reason == "oom":
        peak = f"{event.peak_memory_bytes // 2**20} MiB"
        if event.memory_limit_mib:
            return f"it used more memory than its limit of {event.memory_limit_mib} MiB (peak {peak}) and was killed"
        return (
            f"the containers of its node had used all memory that there is for them, and the kernel killed this one (peak {peak}); "
            "it has no limit of its own: memory=(request, limit) sets one"
        )
    if event.reason == "startup_timeout":
        return "it took longer to start than its startup_timeout allows"
    if event.exit_code > 128:
        return f"killed by signal {event.exit_code - 128} (exit code {event.exit_code})"
    return f"exit code {event.exit_code}" + (f": {event.message}" if event.message else "")


def last_output(last_lines: Sequence[str]) -> str:
    """What a container printed last, to be put behind a message; empty for none."""
    return ("\nIts last output:\n" + "".join(last_lines)) if last_lines else ""
