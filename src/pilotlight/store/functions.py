"""Rows of functions, their definitions, and classes."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, literal, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.store.tables import autoscalers, calls, classes, definitions, functions, tasks


def insert_function(connection: Connection, row: dict[str, Any]) -> None:
    """Add a function; one that is there stays."""
    connection.execute(upsert(functions).on_conflict_do_nothing(), row)


def set_handle(connection: Connection, function_id: str, handle: bytes) -> None:
    connection.execute(update(functions).where(functions.c.function_id == function_id).values(handle=handle))


def set_live_definitions(connection: Connection, live: dict[str, str]) -> None:
    """Make these definitions (function id → definition id) the ones that new containers run, each of its own function only."""
    for function_id, definition_id in live.items():
        own = exists().where(definitions.c.definition_id == definition_id, definitions.c.function_id == function_id)
        change = update(functions).where(functions.c.function_id == function_id, own)
        connection.execute(change.values(definition_id=definition_id))


def insert_definition(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(upsert(definitions).on_conflict_do_nothing(), row)


def copy_definitions(connection: Connection, pairs: Sequence[tuple[str, str]], at: float) -> None:
    """Each (definition id, id of the copy)."""
    kept = [column for column in definitions.c if column.name not in ("definition_id", "created_at")]
    for definition_id, copy in pairs:
        same = select(literal(copy), literal(at), *kept).where(definitions.c.definition_id == definition_id)
        connection.execute(insert(definitions).from_select(["definition_id", "created_at", *kept], same))


def function_with_definition(connection: Connection, function_id: str) -> Row[*tuple[Any, ...]] | None:
    """The function and its live definition; the columns of the latter are None before the app is published."""
    query = (
        select(
            functions.c.function_id,
            functions.c.app_id,
            functions.c.tag,
            functions.c.handle,
            functions.c.definition_id,
            functions.c.parent_id,
            functions.c.params,
            functions.c.options,
            definitions.c.function,
            definitions.c.alternatives,
            definitions.c.schedule,
            definitions.c.client_version,
        )
        .select_from(functions.outerjoin(definitions, definitions.c.definition_id == functions.c.definition_id))
        .where(functions.c.function_id == function_id)
    )
    return connection.execute(query).first()


def definition(connection: Connection, definition_id: str) -> Row[*tuple[Any, ...]] | None:
    """One definition, live or not."""
    return connection.execute(select(definitions.c.function).where(definitions.c.definition_id == definition_id)).first()


def newest_definition(connection: Connection, function_id: str) -> Row[*tuple[Any, ...]] | None:
    """The definition that was created last, live or not."""
    query = (
        select(definitions.c.definition_id, definitions.c.function, definitions.c.client_version)
        .where(definitions.c.function_id == function_id)
        .order_by(definitions.c.created_at.desc())
        .limit(1)
    )
    return connection.execute(query).first()


def remove_unused(connection: Connection, function_ids: Sequence[str]) -> None:
    """Remove those of these bound functions that no call, container or setting refers to."""
    users = (calls, tasks, autoscalers)
    unused = (~exists().where(table.c.function_id == functions.c.function_id) for table in users)
    wanted = functions.c.function_id.in_(function_ids)
    connection.execute(delete(functions).where(wanted, functions.c.parent_id.is_not(None), *unused))


def insert_class(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(upsert(classes).on_conflict_do_nothing(), row)
