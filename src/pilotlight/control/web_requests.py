"""What a modal.Server has answered: the newest requests of all servers, kept beside what containers print."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from pilotlight.store import web_requests as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

MAX_REQUESTS_KEPT = 100_000
REQUESTS_PER_REPLY = 10_000
DEFAULT_TAIL = 100


class WebRequests:
    """Use cases of the list of requests."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, requests: Sequence[platform_pb2.WebRequest]) -> None:
        """Write down requests that have ended, when the disk has time."""
        rows = [
            {
                "function_id": request.function_id,
                "task_id": request.task_id,
                "route": f"{request.method} {request.path}",
                "status": request.status,
                "at": request.began_at_ns / 1e9,
                "seconds": request.seconds,
            }
            for request in requests
        ]
        if rows:
            self._database.write(lambda connection: store.insert_requests(connection, rows, MAX_REQUESTS_KEPT))

    async def newest(self, function_id: str, count: int) -> list[Row[*tuple[Any, ...]]]:
        """The newest requests, oldest first."""
        limit = min(count or DEFAULT_TAIL, REQUESTS_PER_REPLY)
        return await self._database.read(lambda connection: store.newest(connection, function_id, limit))

    async def between(self, function_id: str, since: float, until: float, limit: int) -> list[Row[*tuple[Any, ...]]]:
        """The requests of a span of time, oldest first."""
        most = min(limit or REQUESTS_PER_REPLY, REQUESTS_PER_REPLY)
        return await self._database.read(lambda connection: store.between(connection, function_id, since, until, most))

    async def counts(self, function_id: str, since: float, until: float, bucket_s: int) -> list[tuple[float, int]]:
        """(start, n) of the requests of a span, by buckets of so many seconds."""
        found: Counter[float] = Counter()
        for row in await self._database.read_long(lambda connection: store.counts(connection, function_id, since, until, bucket_s)):
            found[row.start] += row.n
        return list(found.items())

    async def outcomes(
        self, function_id: str, since: float, until: float, task_id: str = ""
    ) -> tuple[list[Row[*tuple[Any, ...]]], list[float]]:
        """(status, n) of all requests of a span of time that are kept, and how many seconds the last of them took."""

        def query(connection: Connection) -> tuple[list[Row[*tuple[Any, ...]]], list[float]]:
            span = (function_id, since, until, task_id)
            durations = [seconds for _, seconds in store.times(connection, *span, REQUESTS_PER_REPLY)]
            return store.outcomes(connection, *span), durations

        return await self._database.read_long(query)
