"""Rows of published names of images: one for each publication, of which the newest is what a name means."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, select

from pilotlight.store.tables import image_names


def newest(connection: Connection, environment_id: str, tag: str) -> Row[*tuple[Any, ...]] | None:
    """What a name means now."""
    return connection.execute(_of(environment_id, tag).limit(1)).first()


def revisions(
    connection: Connection, environment_id: str, tag: str, before_seq: int, limit: int
) -> Sequence[Row[*tuple[Any, ...]]]:
    """The publications of a name, newest first; `before_seq` 0: from the newest on."""
    query = _of(environment_id, tag)
    if before_seq:
        query = query.where(image_names.c.seq < before_seq)
    return connection.execute(query.limit(limit)).all()


def _of(environment_id: str, tag: str) -> Select[*tuple[Any, ...]]:
    query = select(*image_names.c).where(image_names.c.environment_id == environment_id, image_names.c.tag == tag)
    return query.order_by(image_names.c.seq.desc())


def names(
    connection: Connection, environment_id: str, prefix: str, image_id: str, after_tag: str, limit: int
) -> Sequence[Row[*tuple[Any, ...]]]:
    """What the names of an environment mean now, in the order of the names; with the time of their first publication as `since`."""
    last = (
        select(func.max(image_names.c.seq).label("seq"), func.min(image_names.c.created_at).label("since"))
        .where(image_names.c.environment_id == environment_id, image_names.c.tag > after_tag)
        .group_by(image_names.c.tag)
        .subquery()
    )
    query = select(*image_names.c, last.c.since).join(last, last.c.seq == image_names.c.seq)
    if prefix:
        query = query.where(image_names.c.tag.startswith(prefix, autoescape=True))
    if image_id:
        query = query.where(image_names.c.image_id == image_id)
    return connection.execute(query.order_by(image_names.c.tag).limit(limit)).all()


def add(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(image_names.insert(), row)


def remove(connection: Connection, environment_id: str, tag: str) -> int:
    """Forget a name with all its publications; how many these were."""
    query = delete(image_names).where(image_names.c.environment_id == environment_id, image_names.c.tag == tag)
    return connection.execute(query).rowcount


def remove_all_in(connection: Connection, environment_id: str) -> None:
    connection.execute(delete(image_names).where(image_names.c.environment_id == environment_id))


def remove_image(connection: Connection, image_id: str) -> None:
    """Forget the publications of one image: its names mean what they meant before."""
    connection.execute(delete(image_names).where(image_names.c.image_id == image_id))
