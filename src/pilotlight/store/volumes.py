"""Rows of volumes beyond their names (those are `store.named`)."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select, update

from pilotlight.store.tables import volumes


def versions(connection: Connection, volume_ids: Collection[str]) -> Mapping[str, int]:
    """The file system version of each of these that exists."""
    rows = connection.execute(select(volumes.c.volume_id, volumes.c.version).where(volumes.c.volume_id.in_(volume_ids)))
    return {row.volume_id: row.version for row in rows}


def facts(connection: Connection, volume_id: str) -> Row[*tuple[Any, ...]] | None:
    """Name, version and time of creation of a volume."""
    query = select(volumes.c.name, volumes.c.version, volumes.c.created_at).where(volumes.c.volume_id == volume_id)
    return connection.execute(query).one_or_none()


def add_commit(connection: Connection, volume_id: str) -> None:
    """Count one more commit."""
    connection.execute(update(volumes).where(volumes.c.volume_id == volume_id).values(commits=volumes.c.commits + 1))
