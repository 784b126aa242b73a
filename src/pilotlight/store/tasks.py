"""Rows of tasks: what ran where, for how long, with which resources. They are the meter of usage."""

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from pilotlight.store.tables import tasks


def insert_task(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(insert(tasks), row)


def update_task(connection: Connection, task_id: str, **values: Any) -> None:
    connection.execute(update(tasks).where(tasks.c.task_id == task_id).values(**values))


def task_row(connection: Connection, task_id: str) -> Row[*tuple[Any, ...]] | None:
    return connection.execute(select(*tasks.c).where(tasks.c.task_id == task_id)).first()


def unfinished_tasks(connection: Connection) -> list[Row[*tuple[Any, ...]]]:
    return list(connection.execute(select(*tasks.c).where(tasks.c.finished_at.is_(None))))
