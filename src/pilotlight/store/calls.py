"""Rows of function calls, their inputs and outputs, and what generators yield: the truth behind the live queues."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.core.inputs import Recorded
from pilotlight.store.prepared import Prepared
from pilotlight.store.tables import calls, data_chunks, inputs, outputs

_CALL_COLUMNS = ("call_id", "function_id", "app_id", "kind", "invocation", "parent_input_id", "created_at")
_INSERT_CALL = Prepared(upsert(calls).values({name: bindparam(name) for name in _CALL_COLUMNS}).on_conflict_do_nothing())
_INSERT_INPUT = Prepared(
    upsert(inputs).values({column.name: bindparam(column.name) for column in inputs.c}).on_conflict_do_nothing()
)
_INSERT_OUTPUT = Prepared(
    insert(outputs).prefix_with("OR REPLACE").values({column.name: bindparam(column.name) for column in outputs.c})
)
_FINISH_INPUT = Prepared(
    update(inputs)
    .where(inputs.c.input_id == bindparam("finished_id"))
    .values(state=bindparam("finished"), retry_count=bindparam("attempts"))
)


def insert_call(connection: Connection, call: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Add a call and its first inputs; what is there stays."""
    _INSERT_CALL.run(connection, [call])
    if rows:
        _INSERT_INPUT.run(connection, rows)


def insert_inputs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    _INSERT_INPUT.run(connection, rows)


def insert_outputs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Record outputs, and with them that their inputs are finished. `retry_count` of a row is the input's."""
    finished = [{"finished_id": row["input_id"], "finished": Recorded.FINISHED, "attempts": row["retry_count"]} for row in rows]
    _FINISH_INPUT.run(connection, finished)
    _INSERT_OUTPUT.run(connection, rows)


def reopen_inputs(connection: Connection, rows: Iterable[tuple[str, int, bytes | None]]) -> None:
    """Let inputs (id, retry count, new payload or None) run again: their outputs so far are forgotten."""
    for input_id, retry_count, payload in rows:
        values: dict[str, Any] = {"state": Recorded.UNFINISHED, "retry_count": retry_count}
        if payload is not None:
            values["payload"] = payload
        connection.execute(update(inputs).where(inputs.c.input_id == input_id).values(**values))
        connection.execute(delete(outputs).where(outputs.c.input_id == input_id))


def set_deaths(connection: Connection, deaths: Sequence[tuple[str, int]]) -> None:
    for input_id, count in deaths:
        connection.execute(update(inputs).where(inputs.c.input_id == input_id).values(deaths=count))


def set_cancelled(connection: Connection, call_id: str, at: float) -> None:
    connection.execute(update(calls).where(calls.c.call_id == call_id).values(cancelled_at=at))


def call_row(connection: Connection, call_id: str) -> Row[*tuple[Any, ...]] | None:
    query = select(
        calls.c.call_id,
        calls.c.function_id,
        calls.c.app_id,
        calls.c.kind,
        calls.c.invocation,
        calls.c.parent_input_id,
        calls.c.created_at,
        calls.c.cancelled_at,
    )
    return connection.execute(query.where(calls.c.call_id == call_id)).first()


def input_rows(connection: Connection, call_id: str) -> list[Row[*tuple[Any, ...]]]:
    query = select(inputs.c.input_id, inputs.c.idx, inputs.c.state, inputs.c.retry_count, inputs.c.deaths)
    return list(connection.execute(query.where(inputs.c.call_id == call_id).order_by(inputs.c.idx)))


def count_inputs(connection: Connection, call_id: str) -> int:
    return connection.execute(select(func.count()).select_from(inputs).where(inputs.c.call_id == call_id)).scalar_one()


def count_unfinished(connection: Connection, call_id: str) -> int:
    query = select(func.count()).select_from(inputs)
    return connection.execute(query.where(inputs.c.call_id == call_id, inputs.c.state == Recorded.UNFINISHED)).scalar_one()


def payloads(connection: Connection, input_ids: Sequence[str]) -> dict[str, bytes]:
    query = select(inputs.c.input_id, inputs.c.payload).where(inputs.c.input_id.in_(input_ids))
    return {row.input_id: row.payload for row in connection.execute(query)}


def output_rows(
    connection: Connection, call_id: str, after_seq: int, first_idx: int | None, last_idx: int | None, limit: int
) -> list[Row[*tuple[Any, ...]]]:
    """Outputs in the order in which they arrived."""
    query = select(outputs.c.seq, outputs.c.idx, outputs.c.item).where(outputs.c.call_id == call_id, outputs.c.seq > after_seq)
    if first_idx is not None:
        query = query.where(outputs.c.idx >= first_idx)
    if last_idx is not None:
        query = query.where(outputs.c.idx <= last_idx)
    return list(connection.execute(query.order_by(outputs.c.seq).limit(limit)))


def highest_seq(connection: Connection, call_id: str) -> int:
    return connection.execute(select(func.max(outputs.c.seq)).where(outputs.c.call_id == call_id)).scalar() or 0


def unfinished(connection: Connection) -> list[Row[*tuple[Any, ...]]]:
    """All inputs without an output, oldest call first; payloads stay on disk."""
    query = (
        select(
            inputs.c.input_id,
            inputs.c.idx,
            inputs.c.retry_count,
            inputs.c.deaths,
            calls.c.call_id,
            calls.c.function_id,
            calls.c.kind,
            calls.c.invocation,
            calls.c.cancelled_at,
            calls.c.created_at,
        )
        .select_from(inputs.join(calls, calls.c.call_id == inputs.c.call_id))
        .where(inputs.c.state == Recorded.UNFINISHED)
        .order_by(calls.c.created_at, inputs.c.idx)
    )
    return list(connection.execute(query))


def insert_chunks(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Keep what a generator yielded; the same chunk again changes nothing."""
    connection.execute(upsert(data_chunks).on_conflict_do_nothing(), rows)


def chunk_rows(connection: Connection, call_id: str, after_index: int, limit: int) -> list[Row[*tuple[Any, ...]]]:
    query = select(data_chunks.c.chunk_index, data_chunks.c.chunk)
    query = query.where(data_chunks.c.call_id == call_id, data_chunks.c.chunk_index > after_index)
    return list(connection.execute(query.order_by(data_chunks.c.chunk_index).limit(limit)))


def last_chunk_index(connection: Connection, call_id: str) -> int:
    """Of what a call has yielded; 0: nothing."""
    query = select(func.max(data_chunks.c.chunk_index)).where(data_chunks.c.call_id == call_id)
    return connection.execute(query).scalar() or 0


def graph_inputs(connection: Connection, call_ids: Sequence[str]) -> list[Row[*tuple[Any, ...]]]:
    """The inputs of these calls with the status and the task of their outputs, if they have one."""
    query = (
        select(inputs.c.input_id, inputs.c.call_id, inputs.c.idx, outputs.c.status, outputs.c.task_id)
        .select_from(inputs.outerjoin(outputs, outputs.c.input_id == inputs.c.input_id))
        .where(inputs.c.call_id.in_(call_ids))
        .order_by(inputs.c.call_id, inputs.c.idx)
    )
    return list(connection.execute(query))


def counts_by_status(connection: Connection, call_id: str) -> list[tuple[int | None, int]]:
    """How many inputs of a call have an output of each status; None: no output yet."""
    query = (
        select(outputs.c.status, func.count())
        .select_from(inputs.outerjoin(outputs, outputs.c.input_id == inputs.c.input_id))
        .where(inputs.c.call_id == call_id)
        .group_by(outputs.c.status)
    )
    return [(status, count) for status, count in connection.execute(query)]


def children(connection: Connection, input_ids: Sequence[str]) -> list[Row[*tuple[Any, ...]]]:
    """Calls that were made by these inputs."""
    query = select(calls.c.call_id, calls.c.function_id, calls.c.parent_input_id).where(calls.c.parent_input_id.in_(input_ids))
    return list(connection.execute(query))


def input_call(connection: Connection, input_id: str) -> str | None:
    return connection.execute(select(inputs.c.call_id).where(inputs.c.input_id == input_id)).scalar()


def calls_of_function(connection: Connection, function_id: str, limit: int) -> list[Row[*tuple[Any, ...]]]:
    query = select(calls.c.call_id, calls.c.created_at).where(calls.c.function_id == function_id)
    return list(connection.execute(query.order_by(calls.c.created_at.desc()).limit(limit)))


def delete_expired(connection: Connection, before: float, limit: int) -> int:
    """Forget calls that were made, and whose outputs were recorded, before this moment; returns how many."""
    doomed = list(connection.execute(_expired(before).limit(limit)).scalars())
    for table in (outputs, inputs, data_chunks, calls):
        connection.execute(delete(table).where(table.c.call_id.in_(doomed)))
    return len(doomed)


def count_expired(connection: Connection, before: float) -> int:
    """How many calls `delete_expired` would forget."""
    return connection.execute(select(func.count()).select_from(_expired(before).subquery())).scalar_one()


def _expired(before: float) -> Select[tuple[str]]:
    fresh = select(outputs.c.call_id).where(outputs.c.created_at >= before)
    open_calls = select(inputs.c.call_id).where(inputs.c.state == Recorded.UNFINISHED)
    return select(calls.c.call_id).where(
        calls.c.created_at < before, calls.c.call_id.not_in(fresh), calls.c.call_id.not_in(open_calls)
    )
