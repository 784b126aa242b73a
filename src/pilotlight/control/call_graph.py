"""What became of calls, read from the rows: which inputs they had, which calls these made in turn."""

from collections.abc import Sequence
from typing import Any

from modal_proto import api_pb2
from sqlalchemy import Connection, Row

from pilotlight.control.functions import Functions
from pilotlight.core import errors
from pilotlight.store import calls as store
from pilotlight.store.database import Database

GRAPH_LIMIT = 5_000  # inputs in one reply
LIST_LIMIT = 1_000

Result = api_pb2.GenericResult
_CATEGORIES: dict[int | None, str] = {
    None: "pending_inputs",
    Result.GENERIC_STATUS_SUCCESS: "succeeded_inputs",
    Result.GENERIC_STATUS_TIMEOUT: "timeout_inputs",
    Result.GENERIC_STATUS_TERMINATED: "cancelled_inputs",
}


class CallGraphs:
    """Reads only."""

    def __init__(self, database: Database, functions: Functions) -> None:
        self._database = database
        self._functions = functions

    async def call(self, call_id: str) -> tuple[Row[*tuple[Any, ...]], int]:
        """A call and the number of its inputs. Raises NotFound."""

        def query(connection: Connection) -> tuple[Row[*tuple[Any, ...]] | None, int]:
            return store.call_row(connection, call_id), store.count_inputs(connection, call_id)

        row, count = await self._database.read(query)
        if row is None:
            raise errors.NotFound(f"There is no function call {call_id}. Results are kept for 7 days.")
        return row, count

    async def list(self, function_id: str) -> list[api_pb2.FunctionCallInfo]:
        """The newest calls of a function, with how many of their inputs ended how."""

        def query(connection: Connection) -> tuple[list[Row[*tuple[Any, ...]]], list[Row[*tuple[Any, ...]]]]:
            calls = store.calls_of_function(connection, function_id, LIST_LIMIT)
            return calls, store.graph_inputs(connection, [row.call_id for row in calls])

        calls, inputs = await self._database.read(query)
        infos = {row.call_id: api_pb2.FunctionCallInfo(function_call_id=row.call_id, created_at=row.created_at) for row in calls}
        for row in inputs:
            info = infos[row.call_id]
            info.total_inputs += 1
            category = getattr(info, _CATEGORIES.get(row.status, "failed_inputs"))
            category.total += 1
        return list(infos.values())

    async def info(self, call_id: str) -> api_pb2.FunctionCallInfo:
        """When a call was made, and how many of its inputs ended how. Raises NotFound."""
        row, _ = await self.call(call_id)
        counts = await self._database.read(lambda connection: store.counts_by_status(connection, call_id))
        info = api_pb2.FunctionCallInfo(function_call_id=row.call_id, created_at=row.created_at, scheduled_at=row.created_at)
        for status, count in counts:
            info.total_inputs += count
            getattr(info, _CATEGORIES.get(status, "failed_inputs")).total += count
        return info

    async def graph(self, call_id: str) -> api_pb2.FunctionGetCallGraphResponse:
        """The whole tree that a call belongs to, from its root."""

        def query(connection: Connection) -> tuple[list[tuple[str, str, str | None]], list[Row[*tuple[Any, ...]]], bool]:
            root = _root(connection, call_id)
            calls, inputs, level = [root], [], [root[0]]
            while level and len(inputs) < GRAPH_LIMIT:
                found = store.graph_inputs(connection, level)
                inputs.extend(found)
                below = store.children(connection, [row.input_id for row in found])
                calls.extend((row.call_id, row.function_id, row.parent_input_id) for row in below)
                level = [row.call_id for row in below]
            return calls, inputs[:GRAPH_LIMIT], bool(level)

        calls, inputs, truncated = await self._database.read(query)
        reply = api_pb2.FunctionGetCallGraphResponse(truncated=truncated)
        for row in inputs:
            reply.inputs.add(input_id=row.input_id, status=row.status or 0, function_call_id=row.call_id, task_id=row.task_id or "")
        await self._describe(reply, calls)
        return reply

    async def _describe(self, reply: api_pb2.FunctionGetCallGraphResponse, calls: Sequence[tuple[str, str, str | None]]) -> None:
        for call_id, function_id, parent in calls:
            item = reply.function_calls.add(function_call_id=call_id, parent_input_id=parent or "")
            try:
                definition = (await self._functions.get(function_id)).definition
            except errors.PilotlightError:
                continue  # its app is gone: the tree is still worth showing
            item.function_name, item.module_name = definition.function_name, definition.module_name


def _root(connection: Connection, call_id: str) -> tuple[str, str, str | None]:
    """Walk from a call up to the one that nobody's input made."""
    seen: set[str] = set()
    while True:
        row = store.call_row(connection, call_id)
        if row is None:
            raise errors.NotFound(f"There is no function call {call_id}. Results are kept for 7 days.")
        parent = store.input_call(connection, row.parent_input_id) if row.parent_input_id else None
        if parent is None or parent in seen:
            return row.call_id, row.function_id, row.parent_input_id
        seen.add(call_id)
        call_id = parent
