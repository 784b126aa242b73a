"""Rows of apps, what they consist of, and their deployments."""

from typing import Any

from sqlalchemy import Connection, Row, desc, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.store.tables import apps, deployments, layouts


def insert_app(connection: Connection, row: dict[str, Any]) -> None:
    """Add an app; one that is there stays."""
    connection.execute(upsert(apps).on_conflict_do_nothing(), row)


def app_row(connection: Connection, app_id: str) -> Row[*tuple[Any, ...]] | None:
    return connection.execute(select(*apps.c).where(apps.c.app_id == app_id)).first()


def last_by_name(connection: Connection, environment_id: str, name: str) -> Row[*tuple[Any, ...]] | None:
    """The app that carried a name last, stopped or not."""
    query = select(*apps.c).where(apps.c.environment_id == environment_id, apps.c.name == name)
    return connection.execute(query.order_by(desc(apps.c.created_at)).limit(1)).first()


def list_apps(connection: Connection, environment_id: str, stopped_after: float) -> list[Row[*tuple[Any, ...]]]:
    """Live apps, and those that stopped lately; newest first."""
    query = select(*apps.c).where(
        apps.c.environment_id == environment_id, (apps.c.stopped_at.is_(None)) | (apps.c.stopped_at > stopped_after)
    )
    return list(connection.execute(query.order_by(desc(apps.c.created_at))))


def live_apps(connection: Connection) -> list[Row[*tuple[Any, ...]]]:
    return list(connection.execute(select(*apps.c).where(apps.c.stopped_at.is_(None)).order_by(apps.c.created_at)))


def update_app(connection: Connection, app_id: str, **values: Any) -> None:
    connection.execute(update(apps).where(apps.c.app_id == app_id).values(**values))


def stop_app(connection: Connection, app_id: str, state: int, at: float, reason: str) -> bool:
    """Close an app; False if somebody else did before."""
    statement = update(apps).where(apps.c.app_id == app_id, apps.c.stopped_at.is_(None))
    return connection.execute(statement.values(state=state, stopped_at=at, stop_reason=reason)).rowcount == 1


def set_layout(connection: Connection, app_id: str, function_ids: dict[str, str], class_ids: dict[str, str]) -> None:
    statement = upsert(layouts)
    changes = {"function_ids": statement.excluded.function_ids, "class_ids": statement.excluded.class_ids}
    statement = statement.on_conflict_do_update(index_elements=["app_id"], set_=changes)
    connection.execute(statement, {"app_id": app_id, "function_ids": function_ids, "class_ids": class_ids})


def layout(connection: Connection, app_id: str) -> Row[*tuple[Any, ...]] | None:
    return connection.execute(select(layouts.c.function_ids, layouts.c.class_ids).where(layouts.c.app_id == app_id)).first()


def add_deployment(connection: Connection, row: dict[str, Any]) -> int:
    """Record a deployment under the app's next version, which it returns."""
    newest = connection.execute(select(func.max(deployments.c.version)).where(deployments.c.app_id == row["app_id"])).scalar()
    version = (newest or 0) + 1
    connection.execute(insert(deployments), row | {"version": version})
    return version


def deployments_of(connection: Connection, app_id: str) -> list[Row[*tuple[Any, ...]]]:
    """Newest first."""
    return list(
        connection.execute(select(*deployments.c).where(deployments.c.app_id == app_id).order_by(desc(deployments.c.version)))
    )


def deployment(connection: Connection, app_id: str, version: int) -> Row[*tuple[Any, ...]] | None:
    query = select(*deployments.c).where(deployments.c.app_id == app_id, deployments.c.version == version)
    return connection.execute(query).first()
