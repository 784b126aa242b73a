"""What functions and apps have done within a span of time, as far as the rows say it.

Inputs count for the span in which they ended, by the outputs that are kept (`result_ttl_s`); containers for each span that they
touch. Requests of web functions are no inputs: they leave no rows, and are not in here.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modal_proto import api_pb2
from sqlalchemy import Connection, Row

from pilotlight.control.apps import Apps
from pilotlight.control.functions import Functions
from pilotlight.control.tasks import Tasks
from pilotlight.core import errors
from pilotlight.core.statistics import LONGEST_SPAN_S, is_error
from pilotlight.store import statistics as store
from pilotlight.store.database import Database

SAMPLED_OUTPUTS = 10_000  # the newest ones, of which times are taken
RANKED_VARIANTS = 10_000  # up to so many are listed by how many containers they have
VARIANTS_PER_PAGE = 1_000

Result = api_pb2.GenericResult
Rows = Sequence[Row[*tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Span:
    """From `since` (inclusive) to `until`, in seconds since the epoch."""

    since: float
    until: float

    def check(self) -> None:
        """Raises InvalidInput for one that is none, or too long."""
        if not self.since < self.until:
            raise errors.InvalidInput("The span of time ends before it begins: `since` is not before `until`.")
        if self.until - self.since > LONGEST_SPAN_S:
            raise errors.InvalidInput("The span of time is too long: statistics are of 7 days at most. Ask for several spans.")


@dataclass(slots=True)
class InputCounts:
    """Inputs that ended. Those that were cancelled are in none of these."""

    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0

    def add(self, status: int, count: int) -> None:
        """So many more with this status (modal.client.GenericResult.GenericStatus)."""
        if status == Result.GENERIC_STATUS_SUCCESS:
            self.succeeded += count
        elif status == Result.GENERIC_STATUS_TIMEOUT:
            self.timed_out += count
        elif status != Result.GENERIC_STATUS_TERMINATED:
            self.failed += count


@dataclass(slots=True)
class ContainerCounts:
    """Containers of a span."""

    total: int = 0
    started: int = 0
    errors: int = 0
    creating_at_end: int = 0
    startup_s: list[float] = field(default_factory=list[float])
    cores: list[float] = field(default_factory=list[float])  # in the mean of their lives, of those that ended
    memory_gib: list[float] = field(default_factory=list[float])  # at their peaks, likewise

    def add(self, row: Row[*tuple[Any, ...]], span: Span) -> None:
        """One more, which touches the span."""
        self.total += 1
        if row.ready_at is not None and span.since <= row.ready_at < span.until:
            self.started += 1
            self.startup_s.append(row.ready_at - row.created_at)
        ended = row.finished_at is not None and row.finished_at < span.until
        self.creating_at_end += not ended and (row.ready_at is None or row.ready_at >= span.until)
        if not ended:
            return
        self.errors += is_error(row.reason or "", row.exit_code or 0)
        if (cores := mean_cores(row)) is not None:
            self.cores.append(cores)
        if row.peak_memory_bytes:
            self.memory_gib.append(peak_gib(row))


@dataclass(slots=True)
class FunctionReport:
    """What a function has done. Times in seconds."""

    inputs: InputCounts = field(default_factory=InputCounts)
    unfinished_at_end: int = 0
    execution_s: list[float] = field(default_factory=list[float])
    latency_s: list[float] = field(default_factory=list[float])  # of calls with one input: from the call to its output
    containers: ContainerCounts = field(default_factory=ContainerCounts)
    variants: int = 0


@dataclass(slots=True)
class MemberReport:
    """One function of an app, its variants included."""

    function_id: str
    inputs: InputCounts = field(default_factory=InputCounts)
    containers: ContainerCounts = field(default_factory=ContainerCounts)


class Statistics:
    """Reads; changes nothing."""

    def __init__(self, *, database: Database, apps: Apps, functions: Functions, tasks: Tasks) -> None:
        self._database = database
        self._apps = apps
        self._functions = functions
        self._tasks = tasks

    async def of_function(self, function_id: str, span: Span, *, with_variants: bool, task_id: str = "") -> FunctionReport:
        """Of one function; `with_variants`: and of all that were bound from it. `task_id`: of that container alone."""
        span.check()
        record = await self._functions.get(function_id)
        base_id = record.parent_id or function_id

        def query(connection: Connection) -> FunctionReport:
            bound = [row.function_id for row in store.variants(connection, record.app_id, base_id)]
            chosen = [base_id, *bound] if with_variants or task_id else [function_id]
            report = FunctionReport(variants=len(bound))
            for row in store.outcomes(connection, chosen, span.since, span.until, task_id):
                report.inputs.add(row.status, row.n)
            newest = store.newest_outputs(connection, chosen, span.since, span.until, task_id, SAMPLED_OUTPUTS)
            report.execution_s = [seconds for _, seconds in execution(newest)]
            report.latency_s = [seconds for _, seconds in latency(newest)]
            if not task_id:
                report.unfinished_at_end = store.unfinished_at(connection, chosen, span.until)
            for row in store.tasks_within(connection, record.app_id, span.since, span.until, chosen, task_id):
                report.containers.add(row, span)
            return report

        return await self._database.read_long(query)

    async def of_app(self, app_id: str, span: Span) -> tuple[dict[str, MemberReport], int]:
        """Each function that an app has now, by its name; and how many versions went live. An app that has stopped has none."""
        span.check()
        await self._apps.row(app_id)
        tags, _ = await self._apps.members(app_id)
        reports = {function_id: MemberReport(function_id) for function_id in tags.values()}

        def query(connection: Connection) -> int:
            base = {row.function_id: row.parent_id or row.function_id for row in store.members(connection, app_id)}
            for row in store.outcomes(connection, list(base), span.since, span.until, ""):
                if (report := reports.get(base[row.function_id])) is not None:
                    report.inputs.add(row.status, row.n)
            for row in store.tasks_within(connection, app_id, span.since, span.until):
                if (report := reports.get(base.get(row.function_id, ""))) is not None:
                    report.containers.add(row, span)
            return store.deployments_within(connection, app_id, span.since, span.until)

        deployments = await self._database.read_long(query)
        return {tag: reports[function_id] for tag, function_id in tags.items()}, deployments

    async def variants(
        self, function_id: str, limit: int, after: tuple[float, str] | None
    ) -> tuple[Sequence[Row[*tuple[Any, ...]]], bool, tuple[float, str] | None]:
        """What was bound from a function: rows, whether the busiest come first, and where the next page begins (None: nowhere).

        With a `limit` those with the most containers come first; without one, the newest. `after`: the end of the page before.
        """
        record = await self._functions.get(function_id)
        base_id = record.parent_id or function_id
        rows = await self._database.read(lambda connection: store.variants(connection, record.app_id, base_id))
        if limit and after is None and len(rows) <= RANKED_VARIANTS:
            running = Counter(task.pool.function_id for task in self._tasks.all())
            return sorted(rows, key=lambda row: -running[row.function_id])[:limit], True, None
        if after is not None:
            rows = [row for row in rows if (-row.created_at, row.function_id) > (-after[0], after[1])]
        page = rows[:VARIANTS_PER_PAGE]
        last = page[-1] if len(page) < len(rows) else None
        return page, False, (last.created_at, last.function_id) if last is not None else None


def mean_cores(row: Row[*tuple[Any, ...]]) -> float | None:
    """What a container that has ended used of CPUs, in the mean of its life."""
    if row.cpu_seconds is None or row.started_at is None or row.finished_at <= row.started_at:
        return None
    return row.cpu_seconds / (row.finished_at - row.started_at)


def peak_gib(row: Row[*tuple[Any, ...]]) -> float:
    """The most memory that a container that has ended had."""
    return row.peak_memory_bytes / 2**30


def execution(outputs: Rows) -> list[tuple[float, float]]:
    """(when it ended, seconds) of each input that ran."""
    return [(row.ended_at, max(0.0, row.ended_at - row.started_at)) for row in outputs]


def latency(outputs: Rows) -> list[tuple[float, float]]:
    """(when it ended, seconds from the call) of those that were alone in their calls."""
    unary = api_pb2.FUNCTION_CALL_TYPE_UNARY
    return [(row.ended_at, max(0.0, row.ended_at - row.called_at)) for row in outputs if row.kind == unary]
