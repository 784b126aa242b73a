"""What the rows of calls and tasks say about spans of time."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, or_, select

from pilotlight.core.inputs import Recorded
from pilotlight.store.tables import calls, deployments, functions, inputs, outputs, tasks

_OF_CONTAINERS = (
    *(tasks.c.function_id, tasks.c.created_at, tasks.c.started_at, tasks.c.ready_at, tasks.c.finished_at),
    *(tasks.c.exit_code, tasks.c.reason, tasks.c.milli_cpu, tasks.c.memory_mib, tasks.c.gpu_uuids),
    *(tasks.c.cpu_seconds, tasks.c.peak_memory_bytes),
)


def variants(connection: Connection, app_id: str, function_id: str) -> list[Row[*tuple[Any, ...]]]:
    """(function_id, params, options, created_at) of all that were bound from a function, newest first."""
    columns = (functions.c.function_id, functions.c.params, functions.c.options, functions.c.created_at)
    query = select(*columns).where(functions.c.app_id == app_id, functions.c.parent_id == function_id)
    return list(connection.execute(query.order_by(functions.c.created_at.desc(), functions.c.function_id)))


def members(connection: Connection, app_id: str) -> list[Row[*tuple[Any, ...]]]:
    """(function_id, parent_id) of all functions that an app ever had."""
    return list(connection.execute(select(functions.c.function_id, functions.c.parent_id).where(functions.c.app_id == app_id)))


def outcomes(
    connection: Connection, function_ids: Sequence[str], since: float, until: float, task_id: str
) -> list[Row[*tuple[Any, ...]]]:
    """(function_id, status, n) of the inputs that ended within the span; of one container, if one is named."""
    query = _ended_within(function_ids, since, until, task_id)
    query = query.add_columns(calls.c.function_id, outputs.c.status, func.count().label("n"))
    return list(connection.execute(query.group_by(calls.c.function_id, outputs.c.status)))


def outcomes_over_time(
    connection: Connection, function_ids: Sequence[str], since: float, until: float, bucket_s: int
) -> list[Row[*tuple[Any, ...]]]:
    """(start, status, n) of the inputs that ended within the span, by buckets of so many seconds."""
    start = (func.floor((outputs.c.created_at - since) / bucket_s) * bucket_s + since).label("start")
    query = _ended_within(function_ids, since, until, "").add_columns(start, outputs.c.status, func.count().label("n"))
    return list(connection.execute(query.group_by(start, outputs.c.status)))


def newest_outputs(
    connection: Connection, function_ids: Sequence[str], since: float, until: float, task_id: str, limit: int
) -> list[Row[*tuple[Any, ...]]]:
    """(started_at, ended_at, kind, called_at) of the last inputs that ran and ended within the span."""
    times = (outputs.c.started_at, outputs.c.created_at.label("ended_at"), calls.c.created_at.label("called_at"))
    query = _ended_within(function_ids, since, until, task_id).add_columns(*times, calls.c.kind)
    query = query.where(outputs.c.started_at.is_not(None))
    return list(connection.execute(query.order_by(outputs.c.created_at.desc()).limit(limit)))


def _ended_within(function_ids: Sequence[str], since: float, until: float, task_id: str) -> Select[*tuple[Any, ...]]:
    at = outputs.c.created_at
    query = select().select_from(outputs.join(calls, calls.c.call_id == outputs.c.call_id))
    query = query.where(calls.c.function_id.in_(function_ids), at >= since, at < until)
    return query.where(outputs.c.task_id == task_id) if task_id else query


def unfinished_at(connection: Connection, function_ids: Sequence[str], until: float) -> int:
    """How many inputs of calls from before that moment had no output by then."""
    begun = (calls.c.function_id.in_(function_ids), calls.c.created_at < until)
    still = select(func.count()).select_from(inputs.join(calls, calls.c.call_id == inputs.c.call_id))
    still = still.where(*begun, inputs.c.state == Recorded.UNFINISHED)
    later = select(func.count()).select_from(outputs.join(calls, calls.c.call_id == outputs.c.call_id))
    later = later.where(*begun, outputs.c.created_at >= until)
    return connection.execute(still).scalar_one() + connection.execute(later).scalar_one()


def tasks_within(
    connection: Connection, app_id: str, since: float, until: float, function_ids: Sequence[str] | None = None, task_id: str = ""
) -> Iterable[Row[*tuple[Any, ...]]]:
    """Containers of an app that there were at some moment of the span: all, or those of some functions, or one."""
    query = select(*_OF_CONTAINERS).where(tasks.c.app_id == app_id, tasks.c.created_at < until)
    query = query.where(or_(tasks.c.finished_at.is_(None), tasks.c.finished_at >= since))
    if function_ids is not None:
        query = query.where(tasks.c.function_id.in_(function_ids))
    if task_id:
        query = query.where(tasks.c.task_id == task_id)
    return connection.execute(query)


def deployments_within(connection: Connection, app_id: str, since: float, until: float) -> int:
    """How many versions of an app went live within the span."""
    at = deployments.c.deployed_at
    query = select(func.count()).select_from(deployments).where(deployments.c.app_id == app_id, at >= since, at < until)
    return connection.execute(query).scalar_one()


def newest_inputs(connection: Connection, function_ids: Sequence[str], limit: int) -> list[Row[*tuple[Any, ...]]]:
    """The inputs of the newest calls, newest first; columns as in `inputs_between`."""
    query = _inputs_of(function_ids).order_by(calls.c.created_at.desc(), inputs.c.idx.desc())
    return list(connection.execute(query.limit(limit)))


def inputs_between(
    connection: Connection, function_ids: Sequence[str], since: float, until: float, limit: int
) -> list[Row[*tuple[Any, ...]]]:
    """(input_id, call_id, called_at, status, task_id, started_at, ended_at) of the inputs of calls of the span, oldest first.

    The last four are None for inputs without an output.
    """
    query = _inputs_of(function_ids).where(calls.c.created_at >= since, calls.c.created_at < until)
    return list(connection.execute(query.order_by(calls.c.created_at, inputs.c.idx).limit(limit)))


def input_counts(
    connection: Connection, function_ids: Sequence[str], since: float, until: float, bucket_s: int
) -> list[Row[*tuple[Any, ...]]]:
    """(start, n) of the inputs of calls of the span, by buckets of so many seconds."""
    at = calls.c.created_at
    start = (func.floor((at - since) / bucket_s) * bucket_s + since).label("start")
    query = select(start, func.count().label("n")).select_from(calls.join(inputs, inputs.c.call_id == calls.c.call_id))
    query = query.where(calls.c.function_id.in_(function_ids), at >= since, at < until)
    return list(connection.execute(query.group_by(start).order_by(start)))


def _inputs_of(function_ids: Sequence[str]) -> Select[*tuple[Any, ...]]:
    joined = calls.join(inputs, inputs.c.call_id == calls.c.call_id)
    joined = joined.outerjoin(outputs, outputs.c.input_id == inputs.c.input_id)
    of_output = (outputs.c.status, outputs.c.task_id, outputs.c.started_at, outputs.c.created_at.label("ended_at"))
    query = select(inputs.c.input_id, calls.c.call_id, calls.c.created_at.label("called_at"), *of_output).select_from(joined)
    return query.where(calls.c.function_id.in_(function_ids))
