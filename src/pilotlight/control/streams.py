"""What generators yield, chunk by chunk, on its way to whoever iterates.

A chunk is on disk before the container is told that it arrived, and is read in the order of its index.

Whoever iterates learns by another way that the generator has failed, and forgets what it has not handed on when it does. So the
failure is held back until it asks for what comes after the last chunk: only then has it handed on all before.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from modal_proto import api_pb2
from sqlalchemy import Row

from pilotlight.store import calls as store
from pilotlight.store.database import Database

CHUNKS_PER_READ = 200
ABSENCE_S = 2.0  # a failure waits so long for a reader that has yet to come, or that comes again for more
ASK_AGAIN_S = 1.0  # who asks for more of a stream that is over is answered after so long, so as not to ask in a tight loop


@dataclass(slots=True, eq=False)
class _Reader:
    """One who reads a stream, and has handed on what lies before the index `asked_after`."""

    asked_after: int
    news: asyncio.Event


class Streams:
    """The streams of all calls. `is_finished` says whether a call, by its id, yields nothing more."""

    def __init__(self, database: Database, is_finished: Callable[[str], bool]) -> None:
        self._database = database
        self._is_finished = is_finished
        self._readers: dict[str, list[_Reader]] = {}
        self._failing: Counter[str] = Counter()  # calls whose failure waits for their readers
        self._progress = asyncio.Event()  # a reader has come or left

    async def put(self, call_id: str, chunks: Sequence[api_pb2.DataChunk]) -> None:
        """Keep chunks of a generator's stream; the same ones again change nothing."""
        rows = [{"call_id": call_id, "chunk_index": chunk.index, "chunk": chunk.SerializeToString()} for chunk in chunks]
        await self._database.write(lambda connection: store.insert_chunks(connection, rows))
        self.wake(call_id)

    async def read(self, call_id: str, after_index: int) -> AsyncGenerator[api_pb2.DataChunk]:
        """The stream of a call from after this index, until the call is finished and all was given."""
        reader = _Reader(after_index, asyncio.Event())
        readers = self._readers.setdefault(call_id, [])
        readers.append(reader)
        self._tell_progress()
        try:
            while True:
                reader.news.clear()
                finished = self._is_finished(call_id)
                rows = await self._rows(call_id, after_index)
                for row in rows:
                    yield api_pb2.DataChunk.FromString(row.chunk)
                    after_index = row.chunk_index
                if rows or reader.news.is_set():
                    continue
                has_given = after_index > reader.asked_after
                if has_given and (finished or call_id in self._failing):
                    return
                if finished:
                    await self._linger(reader)
                    return
                await reader.news.wait()
        finally:
            readers.remove(reader)
            if not readers and self._readers.get(call_id) is readers:
                del self._readers[call_id]
            self._tell_progress()

    async def _linger(self, reader: _Reader) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_AGAIN_S):
                await reader.news.wait()

    def wake(self, call_id: str) -> None:
        """Let all who read a stream look again."""
        for reader in self._readers.get(call_id, ()):
            reader.news.set()

    def is_read(self, call_id: str) -> bool:
        """Whether anybody reads a stream right now."""
        return call_id in self._readers

    async def handed_on(self, call_id: str, timeout_s: float) -> bool:
        """Wait until a reader has handed on all that was put so far, or nobody reads; False if that takes longer."""
        last_index = await self._database.read(lambda connection: store.last_chunk_index(connection, call_id))
        if not last_index:
            return True
        self._failing[call_id] += 1
        self.wake(call_id)
        clock = asyncio.get_running_loop().time
        deadline, seen_at = clock() + timeout_s, clock()
        try:
            while not any(reader.asked_after >= last_index for reader in self._readers.get(call_id, ())):
                if self.is_read(call_id):
                    seen_at = clock()
                elif clock() >= seen_at + ABSENCE_S:
                    return True
                if clock() >= deadline:
                    return False
                await self._progress_until(deadline if self.is_read(call_id) else min(deadline, seen_at + ABSENCE_S))
            return True
        finally:
            self._failing[call_id] -= 1
            if not self._failing[call_id]:
                del self._failing[call_id]

    async def _progress_until(self, deadline: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._progress.wait()

    def _tell_progress(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    async def _rows(self, call_id: str, after_index: int) -> Sequence[Row[*tuple[Any, ...]]]:
        return await self._database.read(lambda connection: store.chunk_rows(connection, call_id, after_index, CHUNKS_PER_READ))
