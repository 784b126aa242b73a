"""Rows of the names that web functions are served at: labels and custom domains, each of one function at a time."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.store.tables import functions, web_names


def set_names(connection: Connection, app_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Make these the names of an app: others that it had go, and those that another app had become its own."""
    connection.execute(delete(web_names).where(web_names.c.app_id == app_id))
    for row in rows:
        connection.execute(upsert(web_names).on_conflict_do_update(index_elements=["name"], set_=row), row)


def names(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    return connection.execute(select(*web_names.c).order_by(web_names.c.name)).all()


def handles_of(connection: Connection, app_id: str) -> Sequence[Row[*tuple[Any, ...]]]:
    """(function_id, handle) of the functions of an app, without those that are bound to parameters or options."""
    query = select(functions.c.function_id, functions.c.handle)
    return connection.execute(query.where(functions.c.app_id == app_id, functions.c.parent_id.is_(None))).all()
