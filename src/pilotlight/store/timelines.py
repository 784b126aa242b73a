"""What the rows of requests say, by buckets of time."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from pilotlight.store.output_tables import web_requests


def requests(connection: Connection, function_id: str, since: float, until: float, bucket_s: int) -> list[Row[*tuple[Any, ...]]]:
    """(start, status, n) of the requests of a server that began within the span."""
    at = web_requests.c.at
    start = _start(at, bucket_s)
    query = select(start, web_requests.c.status, func.count().label("n"))
    query = query.where(web_requests.c.function_id == function_id, at >= since, at < until)
    return list(connection.execute(query.group_by(start, web_requests.c.status)))


def request_times(connection: Connection, function_id: str, since: float, until: float, limit: int) -> list[tuple[float, float]]:
    """(when it began, seconds) of the newest requests of the span."""
    at = web_requests.c.at
    query = select(at, web_requests.c.seconds).where(web_requests.c.function_id == function_id, at >= since, at < until)
    return [(row.at, row.seconds) for row in connection.execute(query.order_by(at.desc()).limit(limit))]


def requests_kept_since(connection: Connection) -> float:
    """From when on no request is missing; 0 where none ever was removed."""
    oldest = connection.execute(
        select(web_requests.c.request_id, web_requests.c.at).order_by(web_requests.c.request_id).limit(1)
    ).first()
    return oldest.at if oldest is not None and oldest.request_id > 1 else 0.0


def _start(at: ColumnElement[float], bucket_s: int) -> ColumnElement[float]:
    return (func.floor(at / bucket_s) * bucket_s).label("start")
