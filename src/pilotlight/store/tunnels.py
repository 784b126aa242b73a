"""Rows of the tunnels that are open: they outlive the server as their containers do."""

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from pilotlight.store.tables import tunnels


def add(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(insert(tunnels), row)


def remove(connection: Connection, label: str) -> None:
    """Forget one; unknown ones are no error."""
    connection.execute(delete(tunnels).where(tunnels.c.label == label))


def all_tunnels(connection: Connection) -> list[Row[*tuple[Any, ...]]]:
    return list(connection.execute(select(*tunnels.c).order_by(tunnels.c.label)))
