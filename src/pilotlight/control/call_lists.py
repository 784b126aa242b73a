"""Inputs of a function one by one, as a list by time: when they came, where they ran, how they ended."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from modal_proto import api_pb2
from sqlalchemy import Connection, Row

from pilotlight.control.functions import Functions
from pilotlight.control.pools import Pools
from pilotlight.control.timestamps import timestamp
from pilotlight.core import errors
from pilotlight.store import statistics as store
from pilotlight.store.database import Database

LISTED_INPUTS = 10_000  # in one reply

Result = api_pb2.GenericResult
Info = api_pb2.FunctionCallInputInfo

_STATUS = {
    Result.GENERIC_STATUS_SUCCESS: api_pb2.FUNCTION_CALL_INPUT_STATUS_SUCCESS,
    Result.GENERIC_STATUS_TIMEOUT: api_pb2.FUNCTION_CALL_INPUT_STATUS_TIMEOUT,
    Result.GENERIC_STATUS_TERMINATED: api_pb2.FUNCTION_CALL_INPUT_STATUS_TERMINATED,
    Result.GENERIC_STATUS_INIT_FAILURE: api_pb2.FUNCTION_CALL_INPUT_STATUS_INIT_FAILURE,
    Result.GENERIC_STATUS_INTERNAL_FAILURE: api_pb2.FUNCTION_CALL_INPUT_STATUS_INTERNAL_FAILURE,
    Result.GENERIC_STATUS_IDLE_TIMEOUT: api_pb2.FUNCTION_CALL_INPUT_STATUS_IDLE_TIMEOUT,
}


class CallLists:
    """Reads only."""

    def __init__(self, *, database: Database, functions: Functions, pools: Pools) -> None:
        self._database = database
        self._functions = functions
        self._pools = pools

    async def newest(self, function_id: str, count: int, *, with_variants: bool) -> list[Info]:
        """The last inputs of a function, newest first."""
        limit = min(count, LISTED_INPUTS)
        return await self._list(function_id, with_variants, lambda connection, ids: store.newest_inputs(connection, ids, limit))

    async def between(self, function_id: str, since: float, until: float, limit: int, *, with_variants: bool) -> list[Info]:
        """The inputs of calls that were made within a span of time, oldest first."""
        most = min(limit or LISTED_INPUTS, LISTED_INPUTS)
        return await self._list(
            function_id, with_variants, lambda connection, ids: store.inputs_between(connection, ids, since, until, most)
        )

    async def counts(
        self, function_id: str, since: float, until: float, bucket_s: int, *, with_variants: bool
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """(start, n) by buckets of so many seconds. Raises InvalidInput for a span or a bucket that is none."""
        if not since < until or bucket_s <= 0:
            raise errors.InvalidInput("The span of time, or the size of its buckets, is none: `since` must be before `until`.")
        app_id, base_id = await self._family(function_id)

        def query(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
            chosen = _chosen(connection, app_id, base_id, function_id, with_variants)
            return store.input_counts(connection, chosen, since, until, bucket_s)

        return await self._database.read_long(query)

    async def _family(self, function_id: str) -> tuple[str, str]:
        record = await self._functions.get(function_id)
        return record.app_id, record.parent_id or function_id

    async def _list(
        self, function_id: str, with_variants: bool, rows_of: Callable[[Connection, Sequence[str]], Iterable[Row[*tuple[Any, ...]]]]
    ) -> list[Info]:
        app_id, base_id = await self._family(function_id)

        def query(connection: Connection) -> tuple[Sequence[str], list[Row[*tuple[Any, ...]]]]:
            chosen = _chosen(connection, app_id, base_id, function_id, with_variants)
            return chosen, list(rows_of(connection, chosen))

        chosen, rows = await self._database.read_long(query)
        running = {
            input_id: task.task_id
            for pool in map(self._pools.find, chosen)
            if pool is not None
            for task in pool.tasks.values()
            for input_id in list(task.held)[: task.slots]  # those behind them were given ahead
        }
        return [_info(row, running.get(row.input_id, "")) for row in rows]


def _chosen(connection: Connection, app_id: str, base_id: str, function_id: str, with_variants: bool) -> list[str]:
    if not with_variants:
        return [function_id]
    return [base_id, *(row.function_id for row in store.variants(connection, app_id, base_id))]


def _info(row: Row[*tuple[Any, ...]], task_id: str) -> Info:
    info = Info(function_call_id=row.call_id, enqueued_at=timestamp(row.called_at))
    if row.status is None:
        running, pending = api_pb2.FUNCTION_CALL_INPUT_STATUS_RUNNING, api_pb2.FUNCTION_CALL_INPUT_STATUS_PENDING
        info.status = running if task_id else pending
        if task_id:
            info.container_id = task_id
        return info
    info.status = _STATUS.get(row.status, api_pb2.FUNCTION_CALL_INPUT_STATUS_FAILURE)
    if row.task_id:
        info.container_id = row.task_id
    if row.started_at is not None:
        info.started_at.CopyFrom(timestamp(row.started_at))
        info.execution_time_seconds = max(0.0, row.ended_at - row.started_at)
    return info
