"""Rows of what containers have looked up in other environments, and of the apps that they made; beside what they print."""

from collections.abc import Collection

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert

from pilotlight.store.output_tables import found


def add(connection: Connection, task_id: str, object_ids: Collection[str]) -> None:
    """Note that a container has found these; those that it had found stay."""
    rows = [{"task_id": task_id, "object_id": object_id} for object_id in object_ids]
    connection.execute(insert(found).on_conflict_do_nothing(), rows)


def all_of(connection: Connection) -> list[tuple[str, str]]:
    """(task, object), oldest first."""
    return [(row.task_id, row.object_id) for row in connection.execute(select(found.c.task_id, found.c.object_id))]


def forget(connection: Connection, task_ids: Collection[str]) -> None:
    """These containers have ended."""
    connection.execute(delete(found).where(found.c.task_id.in_(task_ids)))
