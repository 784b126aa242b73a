"""What the rows of outputs and requests say, by buckets of time."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from pilotlight.store.output_tables import web_requests
from pilotlight.store.tables import calls, outputs


def outcomes(
    connection: Connection, function_ids: Sequence[str], since: float, until: float, bucket_s: int
) -> list[Row[*tuple[Any, ...]]]:
    """(start, status, n) of the inputs that ended within the span."""
    at = outputs.c.created_at
    start = _start(at, bucket_s)
    query = select(start, outputs.c.status, func.count().label("n"))
    query = query.select_from(outputs.join(calls, calls.c.call_id == outputs.c.call_id))
    query = query.where(calls.c.function_id.in_(function_ids), at >= since, at < until)
    return list(connection.execute(query.group_by(start, outputs.c.status)))


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
