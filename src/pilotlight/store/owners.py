"""Where objects belong: the environment and the app of what an id names."""

from typing import Any

from sqlalchemy import Connection, Row, Select, literal, select

from pilotlight.core.permissions import Kind, Owner
from pilotlight.store.tables import apps, calls, classes, dicts, functions, network_file_systems, queues, secrets, tasks, volumes

_NOTHING = literal("")


def _in_environment(table: Any) -> Select[*tuple[Any, ...]]:
    return select(table.c.environment_id, _NOTHING.label("own_function"), _NOTHING.label("parent"))


def _in_app(table: Any, own_function: Any = _NOTHING, parent: Any = _NOTHING) -> Select[*tuple[Any, ...]]:
    # The rows of an app outlive it; were they gone, what is left of it would belong to no environment.
    columns = (apps.c.environment_id, own_function.label("own_function"), parent.label("parent"))
    return select(*columns).select_from(table.outerjoin(apps, apps.c.app_id == table.c.app_id))


_CALLS = _in_app(calls, calls.c.function_id, functions.c.parent_id)
_QUERIES = {
    Kind.APP: (apps.c.app_id, _in_environment(apps)),
    Kind.FUNCTION: (functions.c.function_id, _in_app(functions, parent=functions.c.parent_id)),
    Kind.CLASS: (classes.c.class_id, _in_app(classes)),
    Kind.CALL: (calls.c.call_id, _CALLS.outerjoin(functions, functions.c.function_id == calls.c.function_id)),
    Kind.TASK: (tasks.c.task_id, _in_app(tasks)),
    Kind.SECRET: (secrets.c.secret_id, _in_environment(secrets)),
    Kind.DICT: (dicts.c.dict_id, _in_environment(dicts)),
    Kind.QUEUE: (queues.c.queue_id, _in_environment(queues)),
    Kind.VOLUME: (volumes.c.volume_id, _in_environment(volumes)),
    Kind.FILE_SYSTEM: (network_file_systems.c.file_system_id, _in_environment(network_file_systems)),
}


def owner_of(connection: Connection, kind: Kind, object_id: str) -> Owner | None:
    """Where an object belongs; None where there is none of that id."""
    key, query = _QUERIES[kind]
    row: Row[*tuple[Any, ...]] | None = connection.execute(query.where(key == object_id)).first()
    if row is None:
        return None
    return Owner(row.environment_id or "", tuple(filter(None, (row.own_function, row.parent))))
