"""Rows of environments: names are unique, and exactly one is the default."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from pilotlight.store.tables import apps, dict_entries, dicts, environments, mounts, queue_items, queues, secrets, volumes

_COLUMNS = (
    environments.c.environment_id,
    environments.c.name,
    environments.c.web_suffix,
    environments.c.is_default,
    environments.c.image_builder_version,
    environments.c.created_at,
)


def all_environments(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    """Every environment, oldest first."""
    return connection.execute(select(*_COLUMNS).order_by(environments.c.created_at)).all()


def add(connection: Connection, **values: Any) -> None:
    """Insert an environment."""
    connection.execute(insert(environments).values(**values))


def change(connection: Connection, environment_id: str, **values: Any) -> None:
    """Change columns of an environment."""
    connection.execute(update(environments).where(environments.c.environment_id == environment_id).values(**values))


def census(connection: Connection, environment_id: str) -> dict[str, int]:
    """How many objects of each kind live in an environment, those without a name included, and apps that have not stopped."""
    counts = {
        table.name: select(func.count()).select_from(table).where(table.c.environment_id == environment_id)
        for table in (apps, secrets, dicts, queues, volumes)
    }
    counts["apps"] = counts["apps"].where(apps.c.stopped_at.is_(None))
    return {kind: connection.execute(query).scalar_one() for kind, query in counts.items()}


def set_default(connection: Connection, environment_id: str) -> None:
    """Make an environment the default one, in place of the one that was."""
    connection.execute(update(environments).values(is_default=environments.c.environment_id == environment_id))


def remove(connection: Connection, environment_id: str) -> None:
    """Remove an environment with its secrets, dicts, queues, mounts and volumes; the files of volumes are gone by then."""
    for owner, content, key in ((dicts, dict_entries, "dict_id"), (queues, queue_items, "queue_id")):
        owned = select(owner.c[key]).where(owner.c.environment_id == environment_id)
        connection.execute(delete(content).where(content.c[key].in_(owned)))
        connection.execute(delete(owner).where(owner.c.environment_id == environment_id))
    connection.execute(delete(volumes).where(volumes.c.environment_id == environment_id))
    connection.execute(delete(mounts).where(mounts.c.environment_id == environment_id))
    connection.execute(delete(secrets).where(secrets.c.environment_id == environment_id))
    connection.execute(delete(environments).where(environments.c.environment_id == environment_id))
