"""Rows of images and of what their builds printed."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.store.tables import image_logs, images


def insert_image(connection: Connection, row: dict[str, Any]) -> None:
    """Add an image; one that is there stays."""
    connection.execute(upsert(images).on_conflict_do_nothing(), row)


def image_row(connection: Connection, image_id: str) -> Row[*tuple[Any, ...]] | None:
    return connection.execute(select(*images.c).where(images.c.image_id == image_id)).first()


def update_image(connection: Connection, image_id: str, **values: Any) -> None:
    connection.execute(update(images).where(images.c.image_id == image_id).values(**values))


def unfinished_images(connection: Connection) -> list[Row[*tuple[Any, ...]]]:
    return list(connection.execute(select(*images.c).where(images.c.state.in_(("waiting", "building")))))


def remove_image(connection: Connection, image_id: str) -> None:
    connection.execute(delete(image_logs).where(image_logs.c.image_id == image_id))
    connection.execute(delete(images).where(images.c.image_id == image_id))


def clear_logs(connection: Connection, image_id: str) -> None:
    connection.execute(delete(image_logs).where(image_logs.c.image_id == image_id))


def add_logs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    connection.execute(insert(image_logs).prefix_with("OR REPLACE"), rows)


def logs_after(connection: Connection, image_id: str, seq: int, limit: int) -> list[Row[*tuple[Any, ...]]]:
    query = select(image_logs.c.seq, image_logs.c.file_descriptor, image_logs.c.data, image_logs.c.at)
    query = query.where(image_logs.c.image_id == image_id, image_logs.c.seq > seq).order_by(image_logs.c.seq)
    return list(connection.execute(query.limit(limit)))
