"""Where objects belong: the environment and the app of what an id names."""

from typing import Any

from sqlalchemy import Connection, Row, Select, literal, select

from pilotlight.core.permissions import Kind, Owner
from pilotlight.store.tables import apps, calls, classes, dicts, functions, network_file_systems, queues, secrets, tasks, volumes

_NOTHING = literal("")


def _in_environment(table: Any, key: Any) -> Select[*tuple[Any, ...]]:
    return select(key, table.c.environment_id, _NOTHING.label("app_id"), _NOTHING.label("behind"))


def _in_app(table: Any, key: Any, behind: Any = _NOTHING) -> Select[*tuple[Any, ...]]:
    # The rows of an app outlive it; were they gone, what is left of it would belong to no environment.
    joined = table.outerjoin(apps, apps.c.app_id == table.c.app_id)
    return select(key, apps.c.environment_id, table.c.app_id, behind.label("behind")).select_from(joined)


_QUERIES = {
    Kind.APP: (apps.c.app_id, select(apps.c.app_id, apps.c.environment_id, _NOTHING.label("behind"))),
    Kind.FUNCTION: (functions.c.function_id, _in_app(functions, functions.c.function_id, functions.c.parent_id)),
    Kind.CLASS: (classes.c.class_id, _in_app(classes, classes.c.class_id)),
    Kind.CALL: (calls.c.call_id, _in_app(calls, calls.c.call_id, calls.c.function_id)),
    Kind.TASK: (tasks.c.task_id, _in_app(tasks, tasks.c.task_id)),
    Kind.SECRET: (secrets.c.secret_id, _in_environment(secrets, secrets.c.secret_id)),
    Kind.DICT: (dicts.c.dict_id, _in_environment(dicts, dicts.c.dict_id)),
    Kind.QUEUE: (queues.c.queue_id, _in_environment(queues, queues.c.queue_id)),
    Kind.VOLUME: (volumes.c.volume_id, _in_environment(volumes, volumes.c.volume_id)),
    Kind.FILE_SYSTEM: (
        network_file_systems.c.file_system_id,
        _in_environment(network_file_systems, network_file_systems.c.file_system_id),
    ),
}


def owner_of(connection: Connection, kind: Kind, object_id: str) -> Owner | None:
    """Where an object belongs; None where there is none of that id."""
    key, query = _QUERIES[kind]
    row: Row[*tuple[Any, ...]] | None = connection.execute(query.where(key == object_id)).first()
    if row is None:
        return None
    return Owner(row.environment_id or "", row.app_id or "", row.behind or "")
