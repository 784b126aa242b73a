"""What programs print, and what the platform has to tell their authors: live to whoever follows, and kept to be read later.

Lines get their numbers here, in the order in which they came, before they are written; a reader's cursor is such a number. They are
written in that order too, one transaction after the other: what the disk does not take is tried again before anything after it.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from modal_proto import api_pb2
from sqlalchemy import Connection, Row
from sqlalchemy.exc import OperationalError

from pilotlight.core import errors
from pilotlight.store import output as store
from pilotlight.store.database import Database

log = structlog.get_logger()

RECENT_LINES = 20_000  # of all apps, kept in memory for those who follow
LINES_PER_REPLY = 1_000
FETCH_LIMIT = 20_000
ID_GAP = 1_000_000  # after a restart: lines that were shown and never reached the disk have had these numbers
RETENTION_S = 35 * 24 * 3600
REFUSALS = (errors.DiskFull, OSError, sqlite3.OperationalError, OperationalError)  # of a disk, which may think better of it
RETRY_S = 1.0  # after the disk took nothing
UNWRITTEN_LINES = 200_000  # that wait for such a disk; beyond them the oldest are given up

Receipt = tuple[str, int]  # epoch, number


class Printed(NamedTuple):
    """A line as a container printed it, and of which call and input it is, where that is known."""

    file_descriptor: int
    data: str
    at: float
    call_id: str = ""
    input_id: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or a piece of one; or a change of a task's state (then `data` is empty and the line is not kept)."""

    line_id: int
    app_id: str
    function_id: str
    task_id: str
    file_descriptor: int
    data: str
    at: float
    call_id: str = ""
    input_id: str = ""
    root_id: str = ""  # the function from which this one was bound
    task_state: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lines a reader wants; empty fields match all."""

    app_id: str
    function_id: str = ""  # just this one
    any_function_id: str = ""  # this one, and those that were bound from it
    task_id: str = ""
    call_id: str = ""
    input_id: str = ""
    file_descriptor: int = 0
    search: str = ""

    def columns(self) -> dict[str, Any]:
        named = {
            "app_id": self.app_id,
            "function_id": self.function_id,
            "any_function_id": self.any_function_id,
            "task_id": self.task_id,
            "call_id": self.call_id,
            "input_id": self.input_id,
            "file_descriptor": self.file_descriptor,
        }
        return {name: value for name, value in named.items() if value}

    def matches(self, line: Line) -> bool:
        return (
            line.app_id == self.app_id
            and self.function_id in ("", line.function_id)
            and self.any_function_id in ("", line.function_id, line.root_id)
            and self.task_id in ("", line.task_id)
            and self.call_id in ("", line.call_id)
            and self.input_id in ("", line.input_id)
            and self.file_descriptor in (0, line.file_descriptor)
            and self.search in line.data
        )


class OutputLog:
    """All output of all apps. Lives on the event loop's thread."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time, age_by: Callable[[], float] | None = None) -> None:
        self._database = database
        self._now = now
        self._age_by = age_by or now
        self._recent: deque[Line] = deque(maxlen=RECENT_LINES)
        self._last_id = 0
        self._changed: dict[str, asyncio.Event] = {}
        self._unwritten: list[dict[str, Any]] = []
        self._unkept: dict[str, Receipt] = {}  # by node
        self._flight: asyncio.Future[None] | None = None  # what is being written
        self._in_flight: list[dict[str, Any]] = []
        self._next: asyncio.Handle | None = None  # when what waits will be written
        self._is_refused = False  # the disk took nothing the last time
        self.on_receipt: Callable[[str, str, int], None] = lambda node_id, epoch, number: None

    async def restore(self) -> None:
        """Go on numbering beyond all that the last server may have shown."""
        self._last_id = await self._database.read(store.highest_id) + ID_GAP

    def append(self, app_id: str, function_id: str, task_id: str, lines: Sequence[Printed], root_id: str = "") -> None:
        """Take lines of one task; `root_id` is the function from which its own was bound."""
        for line in lines:
            self._last_id += 1
            self._recent.append(Line(self._last_id, app_id, function_id, task_id, *line, root_id))
            self._unwritten.append(
                {
                    "line_id": self._last_id,
                    "app_id": app_id,
                    "function_id": function_id,
                    "task_id": task_id,
                    **line._asdict(),
                    "root_id": root_id,
                }
            )
        self._write_soon()

    def keep_receipt(self, node_id: str, epoch: str, number: int) -> None:
        """Put on record, together with the lines before this call, that they are all of a node's batches up to this number."""
        self._unkept[node_id] = (epoch, number)
        self._write_soon()

    async def receipts(self) -> Sequence[Row[*tuple[Any, ...]]]:
        """What is on record of each node: (node_id, epoch, number)."""
        return await self._database.read(store.all_receipts)

    # ---- to the disk ----

    def _write_soon(self) -> None:
        """With all that comes in this turn of the event loop."""
        if self._next is None and self._flight is None:
            self._next = asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._next = None
        rows, self._unwritten = self._unwritten, []
        receipts, self._unkept = self._unkept, {}
        kept = [{"node_id": node_id, "epoch": epoch, "number": number} for node_id, (epoch, number) in receipts.items()]

        def work(connection: Connection) -> None:
            if rows:
                store.insert_lines(connection, rows)
            if kept:
                store.keep_receipts(connection, kept)

        self._in_flight = rows
        self._flight = self._database.write(work)
        self._flight.add_done_callback(lambda done: self._landed(done, receipts))

    def _landed(self, done: "asyncio.Future[None]", receipts: dict[str, Receipt]) -> None:
        rows, self._in_flight = self._in_flight, []
        self._flight = None
        if done.cancelled():
            return
        try:
            self._judge(rows, receipts, done.exception())
        finally:
            for app_id in list(self._changed):
                self.wake(app_id)

    def _judge(self, rows: list[dict[str, Any]], receipts: dict[str, Receipt], error: BaseException | None) -> None:
        """What became of a write: on disk, to be tried again, or given up."""
        if error is not None and not isinstance(error, REFUSALS):
            log.error("output_given_up", lines=len(rows), exc_info=error)  # a fault of ours, which another try would meet again
            self._unkept = receipts | self._unkept
            self._write_soon()
            return
        if error is not None:
            if not self._is_refused:
                log.error("output_not_written", lines=len(rows), cause=str(error), retry_in_s=RETRY_S)
            self._is_refused = True
            self._unwritten = rows + self._unwritten
            self._unkept = receipts | self._unkept
            if (surplus := len(self._unwritten) - UNWRITTEN_LINES) > 0:
                log.error("output_given_up", lines=surplus)
                del self._unwritten[:surplus]
            self._next = asyncio.get_running_loop().call_later(RETRY_S, self._write)
            return
        if self._is_refused:
            log.info("output_written_again", lines=len(rows))
        self._is_refused = False
        for node_id, (epoch, number) in receipts.items():
            self.on_receipt(node_id, epoch, number)
        if self._unwritten or self._unkept:
            self._write_soon()

    async def settled(self) -> None:
        """Until all lines taken so far are on disk, or the disk has refused them."""
        target = self._last_id
        while not self._is_refused:
            oldest = next(iter(self._in_flight or self._unwritten), None)
            if oldest is None or oldest["line_id"] > target:
                return
            if self._flight is None and self._next is not None:
                self._next.cancel()
                self._write()
            if self._flight is not None:
                await asyncio.wait((self._flight,))

    async def close(self) -> None:
        """Write what there is; once, even to a disk that takes nothing."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._flight is not None:
            await asyncio.wait((self._flight,))
        if self._next is not None:
            self._next.cancel()
        if self._unwritten or self._unkept:
            self._write()
            if self._flight is not None:
                await asyncio.wait((self._flight,))

    # ---- what the platform says ----

    def say(self, app_id: str, function_id: str, task_id: str, text: str, root_id: str = "") -> None:
        """A line of the platform's own. What is no text, such as half of a surrogate pair from a file's name, becomes "?"."""
        text = text.encode(errors="replace").decode()
        self.append(app_id, function_id, task_id, [Printed(api_pb2.FILE_DESCRIPTOR_INFO, text, self._now())], root_id)

    def task_state(self, app_id: str, function_id: str, task_id: str, state: int) -> None:
        """Tell who follows that a task has changed its state (modal.client.TaskState)."""
        self._last_id += 1
        self._recent.append(Line(self._last_id, app_id, function_id, task_id, 0, "", self._now(), task_state=state))
        self.wake(app_id)

    def wake(self, app_id: str) -> None:
        """Let all who follow an app look again."""
        if (changed := self._changed.pop(app_id, None)) is not None:
            changed.set()

    @property
    def _shown_id(self) -> int:
        """Lines up to here may be shown: they are on disk. Were others, a server that died now would show them once more under new
        numbers. What the disk refuses is shown at once, since it may never get there."""
        oldest = next(iter(self._in_flight or self._unwritten), None)
        return self._last_id if oldest is None or self._is_refused else oldest["line_id"] - 1

    async def follow(
        self, chosen: Filter, after_id: int, timeout_s: float, is_done: Callable[[], bool]
    ) -> AsyncGenerator[api_pb2.TaskLogsBatch]:
        """Lines after the cursor as they come; ends after the time-out, or with `app_done` once `is_done`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        end_id: int | None = None  # of the last line when it was done; other apps print on
        while True:
            if end_id is None and is_done():
                end_id = self._last_id
            is_over = end_id is not None and self._shown_id >= end_id  # said before looking: nothing more can come up to there
            changed = self._changed.setdefault(chosen.app_id, asyncio.Event())
            lines = await self._after(chosen, after_id)
            if lines:
                after_id = lines[-1].line_id
                for batch in _batches(lines):
                    yield batch
                continue
            if is_over:
                yield api_pb2.TaskLogsBatch(app_done=True, entry_id=_entry(after_id))
                return
            try:
                await asyncio.wait_for(changed.wait(), max(0.0, deadline - loop.time()))
            except TimeoutError:
                return

    async def _after(self, chosen: Filter, after_id: int) -> list[Line]:
        shown_id = self._shown_id
        if self._recent and self._recent[0].line_id <= after_id + 1:
            found: list[Line] = []
            for line in reversed(self._recent):
                if line.line_id <= after_id:
                    break
                if line.line_id <= shown_id and chosen.matches(line):
                    found.append(line)
            return found[::-1][:LINES_PER_REPLY]
        if self._last_id <= after_id:
            return []
        rows = await self._read(
            lambda connection: store.lines_after(connection, chosen.columns(), chosen.search, after_id, LINES_PER_REPLY)
        )
        if not rows:
            return []
        return [Line(*row) for row in rows]

    async def fetch(self, chosen: Filter, since: float | None, until: float | None, limit: int) -> list[api_pb2.TaskLogsBatch]:
        """The newest lines of a span of time, in order."""
        limit = min(limit or FETCH_LIMIT, FETCH_LIMIT)
        rows = await self._read(
            lambda connection: store.lines_between(connection, chosen.columns(), chosen.search, since, until, limit)
        )
        return _batches([Line(*row) for row in rows])

    async def count(self, chosen: Filter, since: float, until: float, bucket_s: int) -> list[tuple[float, int, int]]:
        """Lines per bucket: (start of the bucket, file descriptor, how many)."""
        rows = await self._read(
            lambda connection: store.counts(connection, chosen.columns(), chosen.search, since, until, bucket_s)
        )
        return [(row.start, row.file_descriptor, row.n) for row in rows]

    async def _read(self, query: Callable[[Connection], list[Row[*tuple[Any, ...]]]]) -> list[Row[*tuple[Any, ...]]]:
        """Query the disk once all that was taken so far has reached it, or was refused."""
        await self.settled()
        return await self._database.read(query)

    async def collect(self) -> int:
        """Delete lines that are past their time; returns how many."""
        before = self._age_by() - RETENTION_S
        await self.settled()
        return await self._database.write(lambda connection: store.delete_before(connection, before, 10_000))


def _entry(line_id: int) -> str:
    return f"{line_id}-0"


def line_id_of(entry_id: str) -> int:
    """The number in a reader's cursor; an empty one starts at the beginning."""
    number = entry_id.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _batches(lines: Sequence[Line]) -> list[api_pb2.TaskLogsBatch]:
    batches: list[api_pb2.TaskLogsBatch] = []
    for line in lines:
        if not batches or batches[-1].task_id != line.task_id:
            batches.append(api_pb2.TaskLogsBatch(task_id=line.task_id, function_id=line.function_id, root_function_id=line.root_id))
        batch = batches[-1]
        batch.entry_id = _entry(line.line_id)
        batch.items.add(
            data=line.data,
            file_descriptor=line.file_descriptor,  # pyright: ignore[reportArgumentType]
            timestamp=line.at,
            timestamp_ns=int(line.at * 1e9),
            task_state=line.task_state,  # pyright: ignore[reportArgumentType]
            function_call_id=line.call_id,
            input_id=line.input_id,
        )
    return batches
