"""Rows of schedules: which function fires next when."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.store.tables import definitions, functions, schedules

COLUMNS = ("definition_id", "schedule", "next_due", "missed", "last_due", "last_call_id")


def all_schedules(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    return connection.execute(select(schedules)).all()


def wanted_of_app(connection: Connection, app_id: str, function_ids: Sequence[str]) -> Sequence[Row[*tuple[Any, ...]]]:
    """(function_id, tag, definition_id, schedule) of the functions among these whose live definition has a schedule."""
    query = (
        select(functions.c.function_id, functions.c.tag, definitions.c.definition_id, definitions.c.schedule)
        .join(definitions, definitions.c.definition_id == functions.c.definition_id)
        .where(functions.c.app_id == app_id, functions.c.function_id.in_(function_ids), definitions.c.schedule.is_not(None))
    )
    return connection.execute(query).all()


def put(connection: Connection, row: dict[str, Any]) -> None:
    """Add a schedule, or take the place of the function's former one."""
    statement = upsert(schedules)
    changed = {name: statement.excluded[name] for name in COLUMNS}
    connection.execute(statement.on_conflict_do_update(index_elements=["function_id"], set_=changed), row)


def advance(connection: Connection, function_id: str, values: dict[str, Any]) -> None:
    """Note what has happened at a due time."""
    connection.execute(update(schedules).where(schedules.c.function_id == function_id).values(**values))


def remove(connection: Connection, function_ids: Sequence[str]) -> None:
    connection.execute(delete(schedules).where(schedules.c.function_id.in_(function_ids)))
