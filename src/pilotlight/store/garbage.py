"""What rows refer to, and the removal of those that nothing refers to.

References are found by their shape in all columns of all tables: a table that comes later counts without being known here.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    LargeBinary,
    Select,
    String,
    Table,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from pilotlight.core.garbage import KINDS, Held, references
from pilotlight.core.images import ImageState
from pilotlight.store import tables
from pilotlight.store.tables import (
    apps,
    classes,
    definitions,
    deployments,
    functions,
    image_logs,
    images,
    layouts,
    metadata,
    mounts,
    secrets,
    tasks,
)

# What is sorted out itself, and what users put in as theirs: ids in there are no promise of ours.
_NOT_REFERRING = {images, image_logs, mounts, secrets, tables.dict_entries, tables.queue_items, tables.replies, tables.tokens}
_OF_APPS = (functions, classes, layouts)
CHUNK = 500  # ids in one statement


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image as the sweeper sees it. Only one that its definition can make again is ever garbage."""

    image_id: str
    used_at: float
    is_rebuildable: bool
    layers: tuple[str, ...]
    refers: frozenset[str]


def roots(connection: Connection, stopped_before: float) -> set[str]:
    """All ids that occur in rows, those of apps that were stopped before that time aside: these rows are garbage themselves."""
    found: set[str] = set()
    for table in metadata.tables.values():
        if table in _NOT_REFERRING:
            continue
        columns = [column for column in table.columns if isinstance(column.type, String | LargeBinary | JSON)]
        query = select(*(cast(column, LargeBinary) for column in columns)).where(or_(*map(_may_refer, columns)))
        for row in connection.execute(_without_stopped(query, table, stopped_before)):
            for value in row:
                if value is not None:
                    found |= references(value if isinstance(value, bytes) else str(value).encode())
    return found


def image_rows(connection: Connection) -> list[ImageRow]:
    """All images."""
    query = select(images.c.image_id, images.c.definition, images.c.layers, _image_used_at())
    return [
        ImageRow(image_id, used_at, b"FROM " in definition, tuple(layers), frozenset(references(definition)))
        for image_id, definition, layers, used_at in connection.execute(query)
    ]


def mount_rows(connection: Connection) -> Iterator[tuple[Held, set[str]]]:
    """Each mount with what it refers to. One with a name in use is wanted by it: its time of use is infinite."""
    for row in connection.execute(select(mounts.c.mount_id, mounts.c.name, mounts.c.files, mounts.c.created_at)):
        yield Held(row.mount_id, len(row.files), float("inf") if row.name else row.created_at), references(row.files)


def secret_rows(connection: Connection) -> list[Held]:
    """All secrets without a name."""
    query = select(secrets.c.secret_id, func.length(secrets.c.sealed), secrets.c.created_at, secrets.c.last_used_at)
    rows = connection.execute(query.where(secrets.c.name.is_(None)))
    return [Held(secret_id, size, max(created_at, used_at or 0.0)) for secret_id, size, created_at, used_at in rows]


def functions_of_stopped_apps(connection: Connection, stopped_before: float) -> int:
    """How many functions belong to apps that were stopped before that time."""
    query = select(func.count()).select_from(functions).where(functions.c.app_id.in_(_stopped(stopped_before)))
    return connection.execute(query).scalar_one()


def remove_functions_of_stopped_apps(connection: Connection, stopped_before: float) -> None:
    """Remove what apps consisted of that were stopped before that time; the apps stay listed."""
    stopped = _stopped(stopped_before)
    of_them = select(functions.c.function_id).where(functions.c.app_id.in_(stopped))
    connection.execute(delete(definitions).where(definitions.c.function_id.in_(of_them)))
    for table in _OF_APPS:
        connection.execute(delete(table).where(table.c.app_id.in_(stopped)))


def apps_stopped(connection: Connection, before: float) -> int:
    """How many apps were stopped before that time."""
    return connection.execute(select(func.count()).select_from(apps).where(apps.c.stopped_at < before)).scalar_one()


def remove_apps(connection: Connection, stopped_before: float) -> None:
    """Remove apps that were stopped before that time, with the books of their containers and deployments."""
    for table in (tasks, deployments, apps):
        connection.execute(delete(table).where(table.c.app_id.in_(_stopped(stopped_before))))


def set_image_used(connection: Connection, image_id: str, at: float, if_before: float) -> None:
    """Note that somebody asked for an image, unless that was noted after `if_before`."""
    connection.execute(update(images).where(images.c.image_id == image_id, _image_used_at() < if_before).values(used_at=at))


def remove_images(connection: Connection, image_ids: Sequence[str], used_before: float) -> list[str]:
    """Remove those of the images that nobody has used since, and nobody builds; which they were."""
    ended = (ImageState.BUILT.value, ImageState.FAILED.value)
    removed: list[str] = []
    for some in _chunks(image_ids):
        statement = delete(images).where(images.c.image_id.in_(some), _image_used_at() < used_before, images.c.state.in_(ended))
        gone = list(connection.execute(statement.returning(images.c.image_id)).scalars())
        connection.execute(delete(image_logs).where(image_logs.c.image_id.in_(gone)))
        removed += gone
    return removed


def remove_mounts(connection: Connection, mount_ids: Sequence[str], used_before: float) -> int:
    """Remove those of the mounts that nobody has made again since; how many."""
    removed = 0
    for some in _chunks(mount_ids):
        statement = delete(mounts).where(mounts.c.mount_id.in_(some), mounts.c.created_at < used_before)
        removed += connection.execute(statement).rowcount
    return removed


def remove_secrets(connection: Connection, secret_ids: Sequence[str]) -> int:
    """Remove secrets without a name; how many."""
    statements = (delete(secrets).where(secrets.c.secret_id.in_(some), secrets.c.name.is_(None)) for some in _chunks(secret_ids))
    return sum(connection.execute(statement).rowcount for statement in statements)


def _may_refer(column: Column[Any]) -> Any:
    """Looked at by SQLite itself, so that rows without a reference never reach Python."""
    content = cast(column, LargeBinary)
    return or_(*(func.instr(content, literal(f"{kind}-".encode(), LargeBinary)) > 0 for kind in KINDS))


def _without_stopped(query: Any, table: Table, stopped_before: float) -> Any:
    if table in _OF_APPS:
        return query.where(table.c.app_id.not_in(_stopped(stopped_before)))
    if table is definitions:
        owner = exists().where(functions.c.function_id == definitions.c.function_id)
        return query.where(~owner.where(functions.c.app_id.in_(_stopped(stopped_before))))
    return query


def _stopped(before: float) -> Select[Any]:
    return select(apps.c.app_id).where(apps.c.stopped_at < before)


def _image_used_at() -> Any:
    return func.coalesce(images.c.used_at, images.c.created_at)


def _chunks(keys: Sequence[str]) -> Iterator[Collection[str]]:
    return (keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK))
