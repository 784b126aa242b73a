"""Rows of what containers print, in the database of its own."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, or_, select

from pilotlight.store.output_tables import lines, receipts


def insert_lines(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    connection.execute(insert(lines), rows)


def keep_receipts(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """The last batch of each node: (node_id, epoch, number)."""
    connection.execute(insert(receipts).prefix_with("OR REPLACE"), rows)


def all_receipts(connection: Connection) -> list[Row[*tuple[Any, ...]]]:
    return list(connection.execute(select(receipts.c.node_id, receipts.c.epoch, receipts.c.number)))


def highest_id(connection: Connection) -> int:
    return connection.execute(select(func.max(lines.c.line_id))).scalar() or 0


def _where(filters: dict[str, Any], search: str, since: float | None, until: float | None) -> ColumnElement[bool]:
    conditions = [lines.c[name] == value for name, value in filters.items() if name != "any_function_id"]
    if function_id := filters.get("any_function_id"):
        conditions.append(or_(lines.c.function_id == function_id, lines.c.root_id == function_id))
    if search:
        conditions.append(lines.c.data.contains(search, autoescape=True))
    if since is not None:
        conditions.append(lines.c.at >= since)
    if until is not None:
        conditions.append(lines.c.at < until)
    return and_(*conditions)


def lines_after(
    connection: Connection, filters: dict[str, Any], search: str, line_id: int, limit: int
) -> list[Row[*tuple[Any, ...]]]:
    """Lines after a cursor, oldest first."""
    query = select(*lines.c).where(_where(filters, search, None, None), lines.c.line_id > line_id)
    return list(connection.execute(query.order_by(lines.c.line_id).limit(limit)))


def lines_between(
    connection: Connection, filters: dict[str, Any], search: str, since: float | None, until: float | None, limit: int
) -> list[Row[*tuple[Any, ...]]]:
    """The newest lines of a span, oldest first."""
    query = select(*lines.c).where(_where(filters, search, since, until)).order_by(lines.c.line_id.desc()).limit(limit)
    return list(connection.execute(query))[::-1]


def counts(
    connection: Connection, filters: dict[str, Any], search: str, since: float, until: float, bucket_s: int
) -> list[Row[*tuple[Any, ...]]]:
    """Lines per time bucket and file descriptor: rows of (start, file_descriptor, n)."""
    start = (func.floor((lines.c.at - since) / bucket_s) * bucket_s + since).label("start")
    query = select(start, lines.c.file_descriptor, func.count().label("n")).where(_where(filters, search, since, until))
    return list(connection.execute(query.group_by(start, lines.c.file_descriptor).order_by(start)))


def delete_before(connection: Connection, at: float, limit: int) -> int:
    doomed = select(lines.c.line_id).where(lines.c.at < at).limit(limit)
    return connection.execute(delete(lines).where(lines.c.line_id.in_(doomed))).rowcount
