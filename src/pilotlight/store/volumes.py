"""Rows of volumes beyond their names (those are `store.named`)."""

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, select, update

from pilotlight.store.tables import volumes


def versions(connection: Connection, volume_ids: Collection[str]) -> Mapping[str, int]:
    """The file system version of each of these that exists."""
    rows = connection.execute(select(volumes.c.volume_id, volumes.c.version).where(volumes.c.volume_id.in_(volume_ids)))
    return {row.volume_id: row.version for row in rows}


def add_commit(connection: Connection, volume_id: str) -> None:
    """Count one more commit."""
    connection.execute(update(volumes).where(volumes.c.volume_id == volume_id).values(commits=volumes.c.commits + 1))
