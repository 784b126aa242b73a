"""Rows of the nodes that take nothing new until they are told to."""

from sqlalchemy import Connection, delete, insert, select

from pilotlight.store.tables import cordons


def add(connection: Connection, node_id: str, at: float) -> None:
    """Safe to repeat: the first time stays."""
    connection.execute(insert(cordons).prefix_with("OR IGNORE"), {"node_id": node_id, "since": at})


def remove(connection: Connection, node_id: str) -> None:
    connection.execute(delete(cordons).where(cordons.c.node_id == node_id))


def all_nodes(connection: Connection) -> set[str]:
    """Ids of all nodes that are cordoned, connected or not."""
    return set(connection.execute(select(cordons.c.node_id)).scalars())
