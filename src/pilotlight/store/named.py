"""What rows of dicts, queues and volumes have in common: a name in an environment, or a heartbeat in its place."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Row, Table, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from pilotlight.store import tables


@dataclass(frozen=True, slots=True)
class Kind:
    """A table of objects, and the one of what they hold, if that is in the database."""

    table: Table
    content: Table | None
    id_column: str

    @property
    def id(self) -> Column[Any]:
        return self.table.c[self.id_column]


DICTS = Kind(tables.dicts, tables.dict_entries, "dict_id")
QUEUES = Kind(tables.queues, tables.queue_items, "queue_id")
VOLUMES = Kind(tables.volumes, None, "volume_id")
NETWORK_FILE_SYSTEMS = Kind(tables.network_file_systems, None, "file_system_id")

NamedRow = Row[*tuple[Any, ...]]  # object_id, name, environment_id, created_at


def _columns(kind: Kind) -> tuple[Any, ...]:
    return (kind.id.label("object_id"), kind.table.c.name, kind.table.c.environment_id, kind.table.c.created_at)


def add(connection: Connection, kind: Kind, object_id: str, **values: Any) -> None:
    """Insert an object; one of the same id is left alone."""
    connection.execute(
        insert(kind.table).values({kind.id_column: object_id, **values}).on_conflict_do_nothing(index_elements=[kind.id])
    )


def find(connection: Connection, kind: Kind, environment_id: str, name: str) -> NamedRow | None:
    """The object of that name."""
    query = select(*_columns(kind)).where(kind.table.c.environment_id == environment_id, kind.table.c.name == name)
    return connection.execute(query).one_or_none()


def get(connection: Connection, kind: Kind, object_id: str) -> NamedRow | None:
    """One object."""
    return connection.execute(select(*_columns(kind)).where(kind.id == object_id)).one_or_none()


def page(connection: Connection, kind: Kind, environment_id: str, created_before: float, limit: int) -> Sequence[NamedRow]:
    """Named objects, newest first."""
    return connection.execute(
        select(*_columns(kind))
        .where(
            kind.table.c.environment_id == environment_id, kind.table.c.name.is_not(None), kind.table.c.created_at < created_before
        )
        .order_by(kind.table.c.created_at.desc())
        .limit(limit)
    ).all()


def ids_in(connection: Connection, kind: Kind, environment_id: str) -> Sequence[str]:
    """All objects of an environment, those without a name too."""
    return connection.execute(select(kind.id).where(kind.table.c.environment_id == environment_id)).scalars().all()


def ids_without_heartbeat(connection: Connection, kind: Kind, since: float) -> Sequence[str]:
    """Ephemeral objects whose owner was last heard of before that time."""
    return connection.execute(select(kind.id).where(kind.table.c.heartbeat_at < since)).scalars().all()


def set_heartbeat(connection: Connection, kind: Kind, object_id: str, at: float) -> None:
    """Note that the owner of an ephemeral object lives."""
    connection.execute(update(kind.table).where(kind.id == object_id).values(heartbeat_at=at))


def rename(connection: Connection, kind: Kind, object_id: str, name: str) -> None:
    """Give an object another name, which must be free."""
    connection.execute(update(kind.table).where(kind.id == object_id).values(name=name))


def remove(connection: Connection, kind: Kind, object_ids: Collection[str]) -> None:
    """Remove objects with what they hold."""
    if kind.content is not None:
        connection.execute(delete(kind.content).where(kind.content.c[kind.id_column].in_(object_ids)))
    connection.execute(delete(kind.table).where(kind.id.in_(object_ids)))
