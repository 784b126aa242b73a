"""What functions and servers have done over time, as far as the rows say it: nothing is sampled, so a restart leaves no gap.

Of a running container the rows do not say how much CPU time and memory it has used so far: that is known when it ends.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modal_proto import api_pb2
from sqlalchemy import Connection, Row

from pilotlight.control.functions import Functions
from pilotlight.control.statistics import SAMPLED_OUTPUTS, Rows, execution, latency, mean_cores, peak_gib
from pilotlight.control.web_definitions import has_no_inputs
from pilotlight.core import errors, timelines
from pilotlight.core.statistics import is_error
from pilotlight.core.timelines import Family, Groups, Values, Window
from pilotlight.store import statistics as rows_of
from pilotlight.store import web_requests as requests
from pilotlight.store.database import Database

SAMPLED_REQUESTS = 10_000  # the newest ones, of which times are taken
MOST_CONTAINERS = 100_000  # within one span

Result = api_pb2.GenericResult

_OUTCOMES = {
    Result.GENERIC_STATUS_SUCCESS: "successful_calls",
    Result.GENERIC_STATUS_TIMEOUT: "timed_out_calls",
    Result.GENERIC_STATUS_TERMINATED: "cancelled_calls",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One value per bucket; None where it is not known, or nothing was there to measure."""

    name: str
    unit: str
    description: str
    values: Values


class Timelines:
    """Reads; changes nothing. `output_database`: of what containers print, where the requests of servers are too."""

    def __init__(
        self,
        *,
        database: Database,
        output_database: Database,
        functions: Functions,
        result_ttl_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._output_database = output_database
        self._functions = functions
        self._result_ttl_s = result_ttl_s
        self._now = now

    async def of_function(self, function_id: str, buckets: Window, groups: Groups, *, with_variants: bool) -> list[Series]:
        """Of one function; `with_variants`: and of all that were bound from it."""
        record = await self._functions.get(function_id)
        base_id = record.parent_id or function_id

        def query(connection: Connection) -> dict[str, Values]:
            bound = [row.function_id for row in rows_of.variants(connection, record.app_id, base_id)]
            ids = [base_id, *bound] if with_variants else [function_id]
            values: dict[str, Values] = {}
            if "calls" in groups:
                values = _no_calls(buckets) if has_no_inputs(record.definition) else self._of_calls(connection, ids, buckets)
            return values | self._of_containers(connection, record.app_id, ids, buckets)

        return _series(groups, await self._database.read_long(query))

    async def of_server(self, function_id: str, buckets: Window, groups: Groups) -> list[Series]:
        """Of one modal.Server. Raises InvalidInput for what is none."""
        record = await self._functions.get(function_id)
        if not record.definition.is_server:
            raise errors.InvalidInput(f"{record.tag} is no modal.Server. What there is of it, `modal function metrics` tells.")
        values = await self._database.read_long(
            lambda connection: self._of_containers(connection, record.app_id, [function_id], buckets)
        )
        if "requests" in groups:
            values |= await self._output_database.read_long(lambda connection: self._of_requests(connection, function_id, buckets))
        return _series(groups, values)

    def _of_calls(self, connection: Connection, ids: Sequence[str], buckets: Window) -> dict[str, Values]:
        span = (buckets.since, buckets.until)
        moments: dict[str, list[tuple[float, int]]] = {name: [] for name in (*_OUTCOMES.values(), "failed_calls")}
        for row in rows_of.outcomes_over_time(connection, ids, *span, buckets.bucket_s):
            moments[_OUTCOMES.get(row.status, "failed_calls")].append((row.start, row.n))
        moments["new_calls"] = [(row.start, row.n) for row in rows_of.input_counts(connection, ids, *span, buckets.bucket_s)]
        newest = rows_of.newest_outputs(connection, ids, *span, "", SAMPLED_OUTPUTS)
        values = {f"{name}_count": timelines.counts(buckets, of_name) for name, of_name in moments.items()}
        values |= _named("execution_time", timelines.spread(buckets, execution(newest)))
        values |= _named("latency", timelines.spread(buckets, latency(newest)))
        now = self._now()
        return _known(buckets, values, now - self._result_ttl_s, now)

    def _of_containers(self, connection: Connection, app_id: str, ids: Sequence[str], buckets: Window) -> dict[str, Values]:
        every = rows_of.tasks_within(connection, app_id, buckets.since, buckets.until, ids)
        rows = list(itertools.islice(every, MOST_CONTAINERS + 1))
        if len(rows) > MOST_CONTAINERS:
            raise errors.InvalidInput(
                f"More than {MOST_CONTAINERS:,} containers were there within the span of time: ask for shorter ones."
            )
        ended = [row for row in rows if row.finished_at is not None]
        ready = [row for row in rows if row.ready_at is not None]
        values = _named("active_containers", timelines.levels(buckets, _spans(ready, buckets, "ready_at", lambda row: 1.0)))
        for name, amount in _RESERVED.items():
            values |= _named(name, timelines.levels(buckets, _spans(rows, buckets, "created_at", amount)))
        values["started_containers_count"] = timelines.counts(buckets, [(row.ready_at, 1) for row in ready])
        failed = [(row.finished_at, 1) for row in ended if is_error(row.reason or "", row.exit_code or 0)]
        values["failed_containers_count"] = timelines.counts(buckets, failed)
        samples = {
            "startup_time": [(row.ready_at, row.ready_at - row.created_at) for row in ready],
            "used_cpu": [(row.finished_at, cores) for row in ended if (cores := mean_cores(row)) is not None],
            "peak_memory": [(row.finished_at, peak_gib(row)) for row in ended if row.peak_memory_bytes],
        }
        for name, of_name in samples.items():
            values |= _named(name, timelines.spread(buckets, of_name))
        return _known(buckets, values, 0.0, self._now())

    def _of_requests(self, connection: Connection, function_id: str, buckets: Window) -> dict[str, Values]:
        span = (function_id, buckets.since, buckets.until)
        rows = requests.counts(connection, *span, buckets.bucket_s)
        times = requests.times(connection, *span, "", SAMPLED_REQUESTS)
        values = {
            "requests_count": timelines.counts(buckets, [(row.start, row.n) for row in rows]),
            "failed_requests_count": timelines.counts(buckets, [(row.start, row.n) for row in rows if row.status >= 500]),
            **_named("request_time", timelines.spread(buckets, times)),
        }
        return _known(buckets, values, requests.kept_since(connection), self._now())


_RESERVED: Mapping[str, Callable[[Row[*tuple[Any, ...]]], float]] = {
    "reserved_cpu": lambda row: row.milli_cpu / 1_000,
    "reserved_memory": lambda row: row.memory_mib / 1_024,
    "assigned_gpus": lambda row: float(len(row.gpu_uuids)),
}


def _spans(
    rows: Rows, buckets: Window, since: str, amount: Callable[[Row[*tuple[Any, ...]]], float]
) -> list[tuple[float, float, float]]:
    """From the moment in that column to the end of each container."""
    return [(getattr(row, since), row.finished_at if row.finished_at is not None else buckets.until, amount(row)) for row in rows]


def _no_calls(buckets: Window) -> dict[str, Values]:
    return {name: [None for _ in buckets.starts] for family in timelines.OF_FUNCTIONS["calls"] for name in family.names}


def _named(base: str, values: Mapping[str, Values]) -> dict[str, Values]:
    return {f"{base}_{aggregation}": of_aggregation for aggregation, of_aggregation in values.items()}


def _known(buckets: Window, values: Mapping[str, Values], since: float, until: float) -> dict[str, Values]:
    return {name: timelines.unknown_outside(buckets, of_name, since, until) for name, of_name in values.items()}


def _series(groups: Groups, values: Mapping[str, Values]) -> list[Series]:
    families: list[Family] = [family for of_group in groups.values() for family in of_group]
    return [Series(name, family.unit, family.description, values[name]) for family in families for name in family.names]
