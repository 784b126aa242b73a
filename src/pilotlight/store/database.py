"""One writer, many readers, over SQLAlchemy Core.

All that arrives while a transaction is being committed shares the next one, so the cost of reaching the disk is paid once for all
that wait. A piece of work is a function of a connection that may run twice: when one of a group fails, the group is rolled back and
each of its members runs again in a transaction of its own.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.pool import QueuePool

from pilotlight.core import errors

log = structlog.get_logger()

T = TypeVar("T")
Work = Callable[[Connection], T]
Asked = tuple[Work[Any], asyncio.Future[Any]]

READERS = 4
LONG_READERS = 1  # beside them: for queries that look at many rows, one after the other
CACHE_KIB = 24 * 1024  # of pages, per connection: the indexes of some hundred thousand inputs, whose ids are random
GROUP_LIMIT = 512  # pieces of work in one transaction, before no more are waited for
PATIENCE_S = 0.005  # how long a change that nobody waits for does so for company


def open_engine(path: Path, synchronous: str) -> Engine:
    """A SQLite engine in WAL mode that leaves the limits of transactions to SQLAlchemy."""
    engine = create_engine(f"sqlite:///{path}", poolclass=QueuePool, pool_size=READERS + LONG_READERS + 1, max_overflow=2)

    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA wal_autocheckpoint=2000")
        cursor.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


class OwnConnection:
    """A connection of one thread: the writer's, or a reader's. It begins and ends its transactions by itself: a connection from the
    pool for each costs more than what is written or read."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._raw: Any = self._connection.connection.dbapi_connection

    def __enter__(self) -> "OwnConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        self._connection.close()

    def transact(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Do all or nothing; returns what each returned. What one raises is raised."""
        self._raw.execute("BEGIN")
        try:
            results = [work(self._connection) for work in works]
            self._raw.execute("COMMIT")
        except BaseException:
            if self._raw.in_transaction:  # a full disk has ended it already
                self._raw.execute("ROLLBACK")
            raise
        return results


class Database:
    """The database of this process. `write` returns once what it wrote is on disk (see Settings.synchronous)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._pending: queue.SimpleQueue[list[Asked] | None] = queue.SimpleQueue()
        self._asked: list[Asked] = []  # not handed to the writer yet
        self._patience: asyncio.TimerHandle | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._long_readers = ThreadPoolExecutor(LONG_READERS, thread_name_prefix="long-reader")
        self._reader = threading.local()
        self._reader_connections: list[OwnConnection] = []
        self._loop = asyncio.get_running_loop()
        self._writer = threading.Thread(target=self._write_all, name="writer", daemon=True)
        self._writer.start()

    async def read(self, work: Work[T]) -> T:
        """Run a query in a thread of its own, on a snapshot."""
        return await self._loop.run_in_executor(self._readers, self._read, work)

    async def read_long(self, work: Work[T]) -> T:
        """`read`, for what may take seconds: however many ask for such, all readers are there for the others."""
        return await self._loop.run_in_executor(self._long_readers, self._read, work)

    def write(self, work: Work[T], *, patient: bool = False) -> "asyncio.Future[T]":
        """Queue a change; the future is done when it is on disk, or has failed without a trace. Order of calls is order on disk.

        A patient change shares the transaction of the next that is not, which comes within PATIENCE_S if nobody else brings one.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._asked.append((work, future))
        if not patient:
            self._hand_over()
        elif self._patience is None:
            self._patience = self._loop.call_later(PATIENCE_S, self._hand_over)
        return future

    def write_unattended(self, work: Work[Any], what: str, *, patient: bool = False) -> "asyncio.Future[Any]":
        """Queue a change that nobody waits for: should it fail, the log says so, naming what was to be written."""

        def written(done: "asyncio.Future[Any]") -> None:
            if done.cancelled() or (error := done.exception()) is None:
                return
            if isinstance(error, errors.DiskFull):
                log.error("write_failed", what=what, cause=str(error))
            else:
                log.error("write_failed", what=what, exc_info=error)

        future = self.write(work, patient=patient)
        future.add_done_callback(written)
        return future

    def _hand_over(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._asked:
            asked, self._asked = self._asked, []
            self._pending.put(asked)

    async def close(self) -> None:
        """Finish what was queued."""
        self._hand_over()
        self._pending.put(None)
        await self._loop.run_in_executor(None, self._writer.join)
        self._readers.shutdown()
        self._long_readers.shutdown(cancel_futures=True)
        for connection in self._reader_connections:
            connection.close()
        self.engine.dispose()

    def _read(self, work: Work[T]) -> T:
        connection: OwnConnection | None = getattr(self._reader, "connection", None)
        if connection is None:
            connection = self._reader.connection = OwnConnection(self.engine)
            self._reader_connections.append(connection)
        return connection.transact([work])[0]

    def _write_all(self) -> None:
        with OwnConnection(self.engine) as writer:
            while (first := self._pending.get()) is not None:
                group = list(first)
                closing = False
                while len(group) < GROUP_LIMIT and not closing:
                    try:
                        more = self._pending.get_nowait()
                    except queue.Empty:
                        break
                    if more is None:
                        closing = True
                    else:
                        group.extend(more)
                self._answer(self._commit(writer, group))
                if closing:
                    return

    def _commit(self, writer: "OwnConnection", group: Sequence[Asked]) -> list[tuple[asyncio.Future[Any], Any, bool]]:
        try:
            results = writer.transact([work for work, _ in group])
            return [(future, result, True) for (_, future), result in zip(group, results, strict=True)]
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked for the work
            if len(group) == 1:
                return [(group[0][1], self._named(error), False)]
            return [answer for member in group for answer in self._commit(writer, [member])]

    def _named(self, error: Exception) -> Exception:
        """A full disk by the name that callers know it by; any other error as it is."""
        cause = getattr(error, "orig", None) or error
        if not isinstance(cause, sqlite3.Error) or getattr(cause, "sqlite_errorcode", 0) != sqlite3.SQLITE_FULL:
            return error
        full = errors.DiskFull(
            f"The disk of the platform is full: nothing was changed. Make room on the file system of {self.engine.url.database}, "
            "then try again; what was under way goes on by itself."
        )
        full.__cause__ = error
        return full

    def _answer(self, answers: list[tuple[asyncio.Future[Any], Any, bool]]) -> None:
        def deliver() -> None:
            for future, value, succeeded in answers:
                if future.done():
                    continue
                if succeeded:
                    future.set_result(value)
                else:
                    future.set_exception(value)

        self._loop.call_soon_threadsafe(deliver)


def create_missing(engine: Engine, tables: MetaData) -> None:
    """Create tables of a database that has no migrations (what it holds may be thrown away)."""
    tables.create_all(engine)
