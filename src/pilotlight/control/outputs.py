"""Reading the outputs of a call: from memory while it is live, else from disk, waiting for the first where there is none yet.

A caller's cursor is the number of the last output that it has seen; it gets those with higher numbers, in their order.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modal_proto import api_pb2
from sqlalchemy import Connection

from pilotlight.control.live import LiveCall, LiveInput
from pilotlight.core import errors
from pilotlight.store import calls as store
from pilotlight.store.database import Database

MAP_LINGER_S = 0.005  # outputs of a map that arrive within this time share a reply
OUTPUTS_PER_REPLY = 1000


@dataclass(frozen=True, slots=True)
class Wish:
    """Which outputs a caller wants: those after the cursor, of these indices (None: no bound, both inclusive), so many at most."""

    after_seq: int = 0
    timeout_s: float = 0.0
    first_idx: int | None = None
    last_idx: int | None = None
    limit: int = OUTPUTS_PER_REPLY

    def includes(self, idx: int) -> bool:
        return (self.first_idx is None or idx >= self.first_idx) and (self.last_idx is None or idx <= self.last_idx)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a caller gets who asks for outputs. `last_seq` is the cursor for the next question."""

    items: Sequence[api_pb2.FunctionGetOutputsItem]
    last_seq: int
    unfinished: int


class OutputReader:
    """Reads only. `find` gives the live form of a call, if it has one."""

    def __init__(self, database: Database, find: Callable[[str], LiveCall | None]) -> None:
        self._database = database
        self._find = find

    async def read(self, call_id: str, wish: Wish) -> Outputs:
        """Outputs after the cursor, waiting up to the time-out for the first. Raises NotFound for an unknown call."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wish.timeout_s
        while True:
            call = self._find(call_id)
            wakes = call.wakes if call is not None else 0
            if call is not None:
                call.looked_at = clock()
            if call is None or not call.outputs_complete:
                found = await self._from_disk(call_id, wish)
            else:
                found = _from_memory(call, wish)
            remaining_s = deadline - clock()
            if not found.items and call is not None and call.wakes != wakes:
                continue  # an output came while the disk was read
            if found.items or call is None or (not call.unfinished and not call.may_grow) or remaining_s <= 0:
                return found
            await _wait_for_output(call, remaining_s)

    async def _from_disk(self, call_id: str, wish: Wish) -> Outputs:
        def query(connection: Connection) -> Outputs:
            if store.call_row(connection, call_id) is None:
                raise errors.NotFound(f"There is no function call {call_id}. Results are kept for 7 days.")
            rows = store.output_rows(connection, call_id, wish.after_seq, wish.first_idx, wish.last_idx, wish.limit)
            items = [api_pb2.FunctionGetOutputsItem.FromString(row.item) for row in rows]
            return Outputs(items, rows[-1].seq if rows else wish.after_seq, store.count_unfinished(connection, call_id))

        return await self._database.read(query)


def _from_memory(call: LiveCall, wish: Wish) -> Outputs:
    if wish.first_idx is not None and wish.first_idx == wish.last_idx:
        single = call.outputs.get(wish.first_idx)
        is_new = single is not None and single[0] > wish.after_seq and wish.first_idx not in call.unfinished
        chosen = [single] if single is not None and is_new else []
    else:
        newer: list[tuple[int, api_pb2.FunctionGetOutputsItem]] = []
        for idx, entry in reversed(call.outputs.items()):  # they are in the order of their numbers
            if entry[0] <= wish.after_seq:
                break
            if wish.includes(idx):
                newer.append(entry)
        chosen = newer[::-1][: wish.limit]
    last_seq = chosen[-1][0] if chosen else wish.after_seq
    return Outputs([item for _, item in chosen], last_seq, len(call.unfinished))


def output_item(live: LiveInput, item: api_pb2.FunctionPutOutputsItem, task_id: str, now: float) -> api_pb2.FunctionGetOutputsItem:
    """What a caller is given of what a container, or the platform in its place, has put."""
    result = item.result
    if result.status == api_pb2.GenericResult.GENERIC_STATUS_TERMINATED and not result.exception:
        result.exception = "The input was cancelled."
    return api_pb2.FunctionGetOutputsItem(
        result=result,
        idx=live.idx,
        input_id=live.input_id,
        data_format=item.data_format,
        task_id=task_id,
        input_started_at=item.input_started_at,
        output_created_at=item.output_created_at or now,
        retry_count=live.retry_count,
    )


async def _wait_for_output(call: LiveCall, timeout_s: float) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    call.waiters.append(waiter)
    try:
        await asyncio.wait_for(waiter, timeout_s)
        if call.is_map and call.unfinished:
            await asyncio.sleep(MAP_LINGER_S)
    except TimeoutError:
        pass  # whoever waits looks once more
    finally:
        call.waiters = [other for other in call.waiters if other is not waiter]
