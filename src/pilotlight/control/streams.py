"""What generators yield, chunk by chunk, on its way to whoever iterates.

A chunk is on disk before the container is told that it arrived, and is read in the order of its index.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from modal_proto import api_pb2
from sqlalchemy import Row

from pilotlight.store import calls as store
from pilotlight.store.database import Database

CHUNKS_PER_READ = 200
CATCH_UP_S = 1.0  # how long the output of a generator waits for those who read its values


@dataclass(slots=True, eq=False)
class _Reader:
    """One who reads a stream. `parked` while it has given all that there is, and nobody has woken it since."""

    news: asyncio.Event
    parked: bool = False

    def wake(self) -> None:
        self.parked = False
        self.news.set()


class Streams:
    """The streams of all calls. `is_finished` says whether a call, by its id, yields nothing more."""

    def __init__(self, database: Database, is_finished: Callable[[str], bool]) -> None:
        self._database = database
        self._is_finished = is_finished
        self._readers: dict[str, list[_Reader]] = {}
        self._progress = asyncio.Event()  # a reader has parked or left

    async def put(self, call_id: str, chunks: Sequence[api_pb2.DataChunk]) -> None:
        """Keep chunks of a generator's stream; the same ones again change nothing."""
        rows = [{"call_id": call_id, "chunk_index": chunk.index, "chunk": chunk.SerializeToString()} for chunk in chunks]
        await self._database.write(lambda connection: store.insert_chunks(connection, rows))
        self.wake(call_id)

    async def read(self, call_id: str, after_index: int) -> AsyncGenerator[api_pb2.DataChunk]:
        """The stream of a call from after this index, until the call is finished and all was given."""
        reader = _Reader(asyncio.Event())
        readers = self._readers.setdefault(call_id, [])
        readers.append(reader)
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
                if finished:
                    return
                reader.parked = True
                self._tell_progress()
                await reader.news.wait()
        finally:
            readers.remove(reader)
            if not readers and self._readers.get(call_id) is readers:
                del self._readers[call_id]
            self._tell_progress()

    def wake(self, call_id: str) -> None:
        """Let all who read a stream look again."""
        for reader in self._readers.get(call_id, ()):
            reader.wake()

    def is_read(self, call_id: str) -> bool:
        """Whether anybody reads a stream right now."""
        return call_id in self._readers

    async def caught_up(self, call_id: str) -> None:
        """Wait, but not for long, until all who read a stream were given what is in it.

        A caller that iterates gets an exception of the generator by another way than the values before it: it must not come first.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                while any(not reader.parked for reader in self._readers.get(call_id, ())):
                    await self._progress.wait()

    def _tell_progress(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    async def _rows(self, call_id: str, after_index: int) -> Sequence[Row[*tuple[Any, ...]]]:
        return await self._database.read(lambda connection: store.chunk_rows(connection, call_id, after_index, CHUNKS_PER_READ))
