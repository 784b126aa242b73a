"""Rows of mounts: a mount never changes once it is made; a name may come to mean a newer one."""

from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.sqlite import insert

from pilotlight.store.tables import mounts

_COLUMNS = (mounts.c.mount_id, mounts.c.content_hash, mounts.c.files, mounts.c.name, mounts.c.environment_id)


def add(connection: Connection, **values: Any) -> None:
    """Insert a mount; one of the same id is the same mount. Its time is renewed, so that its name means it again."""
    connection.execute(
        insert(mounts)
        .values(**values)
        .on_conflict_do_update(index_elements=[mounts.c.mount_id], set_={"created_at": values["created_at"]})
    )


def get(connection: Connection, mount_id: str) -> Row[*tuple[Any, ...]] | None:
    """One mount."""
    return connection.execute(select(*_COLUMNS).where(mounts.c.mount_id == mount_id)).one_or_none()


def find(connection: Connection, environment_id: str | None, name: str) -> Row[*tuple[Any, ...]] | None:
    """The newest mount of that name in an environment, or among the global ones (None)."""
    return connection.execute(
        select(*_COLUMNS)
        .where(mounts.c.name == name, mounts.c.environment_id.is_not_distinct_from(environment_id))
        .order_by(mounts.c.created_at.desc())
        .limit(1)
    ).one_or_none()
