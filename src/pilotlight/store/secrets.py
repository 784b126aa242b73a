"""Rows of secrets: their content is sealed before it comes here."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from pilotlight.store.tables import apps, secrets

_COLUMNS = (
    secrets.c.secret_id,
    secrets.c.environment_id,
    secrets.c.name,
    secrets.c.sealed,
    secrets.c.created_at,
    secrets.c.updated_at,
    secrets.c.last_used_at,
)


def add(connection: Connection, **values: Any) -> None:
    """Insert a secret; one of the same id is left alone."""
    connection.execute(insert(secrets).values(**values).on_conflict_do_nothing(index_elements=[secrets.c.secret_id]))


def get(connection: Connection, secret_id: str) -> Row[*tuple[Any, ...]] | None:
    """One secret."""
    return connection.execute(select(*_COLUMNS).where(secrets.c.secret_id == secret_id)).one_or_none()


def get_many(connection: Connection, secret_ids: Collection[str]) -> Sequence[Row[*tuple[Any, ...]]]:
    """Several secrets, in no order; those that are gone are left out."""
    return connection.execute(select(*_COLUMNS).where(secrets.c.secret_id.in_(secret_ids))).all()


def find(connection: Connection, environment_id: str, name: str) -> Row[*tuple[Any, ...]] | None:
    """The secret of that name."""
    return connection.execute(
        select(*_COLUMNS).where(secrets.c.environment_id == environment_id, secrets.c.name == name)
    ).one_or_none()


def page(connection: Connection, environment_id: str, created_before: float, limit: int) -> Sequence[Row[*tuple[Any, ...]]]:
    """Named secrets, newest first."""
    return connection.execute(
        select(*_COLUMNS)
        .where(secrets.c.environment_id == environment_id, secrets.c.name.is_not(None), secrets.c.created_at < created_before)
        .order_by(secrets.c.created_at.desc())
        .limit(limit)
    ).all()


def change(connection: Connection, secret_id: str, sealed: bytes, at: float) -> None:
    """Replace the content of a secret."""
    connection.execute(update(secrets).where(secrets.c.secret_id == secret_id).values(sealed=sealed, updated_at=at))


def sealed_otherwise(connection: Connection, mark: bytes, after: str, limit: int) -> Sequence[Row[*tuple[Any, ...]]]:
    """Secrets after that id whose sealed content does not begin with the mark, in the order of ids."""
    query = select(secrets.c.secret_id, secrets.c.sealed).where(
        secrets.c.secret_id > after, func.substr(secrets.c.sealed, 1, len(mark)) != mark
    )
    return connection.execute(query.order_by(secrets.c.secret_id).limit(limit)).all()


def reseal(connection: Connection, sealed: Mapping[str, bytes]) -> None:
    """Replace how secrets are sealed: what they hold is the same."""
    for secret_id, content in sealed.items():
        connection.execute(update(secrets).where(secrets.c.secret_id == secret_id).values(sealed=content))


def set_used(connection: Connection, secret_ids: Collection[str], at: float) -> None:
    """Note that containers were given these secrets."""
    connection.execute(update(secrets).where(secrets.c.secret_id.in_(secret_ids)).values(last_used_at=at))


def remove(connection: Connection, secret_id: str) -> None:
    """Remove a secret."""
    connection.execute(delete(secrets).where(secrets.c.secret_id == secret_id))


def remove_of_stopped_apps(connection: Connection, stopped_before: float) -> int:
    """Remove what belonged to apps that were stopped before that time; how many."""
    stopped = select(apps.c.app_id).where(apps.c.stopped_at < stopped_before)
    return connection.execute(delete(secrets).where(secrets.c.app_id.in_(stopped), secrets.c.name.is_(None))).rowcount
