"""Rows of requests that servers have answered, in the database of what containers print."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select

from pilotlight.store.output_tables import web_requests


def insert_requests(connection: Connection, rows: Sequence[dict[str, Any]], kept: int) -> None:
    """Add requests; beyond so many the oldest of all go."""
    connection.execute(insert(web_requests), rows)
    newest = select(func.max(web_requests.c.request_id)).scalar_subquery()
    connection.execute(delete(web_requests).where(web_requests.c.request_id <= newest - kept))


def newest(connection: Connection, function_id: str, limit: int) -> list[Row[*tuple[Any, ...]]]:
    """The newest requests, oldest first."""
    query = select(*web_requests.c).where(web_requests.c.function_id == function_id)
    return list(connection.execute(query.order_by(web_requests.c.at.desc()).limit(limit)))[::-1]


def between(connection: Connection, function_id: str, since: float, until: float, limit: int) -> list[Row[*tuple[Any, ...]]]:
    """The requests of a span, oldest first."""
    at = web_requests.c.at
    query = select(*web_requests.c).where(web_requests.c.function_id == function_id, at >= since, at < until)
    return list(connection.execute(query.order_by(at).limit(limit)))


def outcomes(connection: Connection, function_id: str, since: float, until: float, task_id: str) -> list[Row[*tuple[Any, ...]]]:
    """(status, n) of the requests of a span; of one container, if one is named."""
    query = select(web_requests.c.status, func.count().label("n")).where(*_within(function_id, since, until, task_id))
    return list(connection.execute(query.group_by(web_requests.c.status)))


def times(
    connection: Connection, function_id: str, since: float, until: float, task_id: str, limit: int
) -> list[tuple[float, float]]:
    """(when it began, seconds) of the last requests of a span; of one container, if one is named."""
    at = web_requests.c.at
    query = select(at, web_requests.c.seconds).where(*_within(function_id, since, until, task_id))
    return [(row.at, row.seconds) for row in connection.execute(query.order_by(at.desc()).limit(limit))]


def _within(function_id: str, since: float, until: float, task_id: str) -> list[ColumnElement[bool]]:
    at = web_requests.c.at
    conditions = [web_requests.c.function_id == function_id, at >= since, at < until]
    return [*conditions, web_requests.c.task_id == task_id] if task_id else conditions


def counts(connection: Connection, function_id: str, since: float, until: float, bucket_s: int) -> list[Row[*tuple[Any, ...]]]:
    """(start, status, n) of the requests that began within a span, by buckets of so many seconds."""
    start = (func.floor((web_requests.c.at - since) / bucket_s) * bucket_s + since).label("start")
    query = select(start, web_requests.c.status, func.count().label("n")).where(*_within(function_id, since, until, ""))
    return list(connection.execute(query.group_by(start, web_requests.c.status).order_by(start)))


def kept_since(connection: Connection) -> float:
    """From when on no request that began is missing; 0 where none ever was removed. Rows are in the order of their ends."""
    columns = (web_requests.c.request_id, web_requests.c.at, web_requests.c.seconds)
    oldest = connection.execute(select(*columns).order_by(web_requests.c.request_id).limit(1)).first()
    return oldest.at + oldest.seconds if oldest is not None and oldest.request_id > 1 else 0.0
