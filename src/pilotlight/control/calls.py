"""Function calls: accepted once, finished once, never lost.

An input is on disk before its caller is told its id, and an output before its node may forget it. What waits for a container is in
the live queues; the rows are the truth from which a restarted server rebuilds them.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from modal_proto import api_pb2
from sqlalchemy import Connection

from pilotlight.control.acceptance import Accepted, call_id_of, input_id_of, input_row
from pilotlight.control.functions import retry_policy_of
from pilotlight.control.live import BETWEEN_INPUTS_S, LiveCall, LiveInput, LiveTask, Pool
from pilotlight.control.outputs import OutputReader, Outputs, Wish, output_item
from pilotlight.control.pools import Pools
from pilotlight.control.streams import Streams
from pilotlight.control.webhooks import MAP_SETTLE_S, Webhooks
from pilotlight.core import errors, ids
from pilotlight.core.inputs import InputEvent, InputState
from pilotlight.store import calls as store
from pilotlight.store.database import Database

log = structlog.get_logger()

Result = api_pb2.GenericResult
Numbered = tuple[LiveInput, int, api_pb2.FunctionGetOutputsItem]  # an output with its place among those of its call

MAX_WAITING_INPUTS = 1_000_000  # per function
MAX_INPUTS_OUTSTANDING = 1000  # of one map, asked of the client
IDLE_MAP_S = 600.0  # a finished map that nobody has asked about for so long is let go of; its outputs stay on disk
REMEMBERED_CALLS = 2_000  # finished calls whose outputs are kept in memory for who asks next
PAYLOAD_MEMORY_BYTES = 64 * 1024 * 1024  # of inputs that wait; beyond it they are read from disk when their turn comes
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 10.0  # between attempts to store an output of our own
SEQ_GAP = 1_000_000  # after a restart: outputs that were shown and then lost on their way to the disk have had these numbers


class Calls:
    """All calls. Lives on the event loop's thread."""

    def __init__(self, database: Database, pools: Pools, webhooks: Webhooks, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._pools = pools
        self._webhooks = webhooks
        self._now = now
        self._live: dict[str, LiveCall] = {}
        self._remembered: OrderedDict[str, LiveCall] = OrderedDict()
        self.streams = Streams(database, self._is_finished)
        self._reader = OutputReader(database, self.find)
        self._delayed: set[asyncio.TimerHandle] = set()
        self.accepted_total = 0
        self.finished_total = 0

    # ---- accepting ----

    async def start(
        self, request: api_pb2.FunctionMapRequest, key: str, *, repeated: bool = False
    ) -> tuple[LiveCall, list[Accepted]]:
        """Create a call with its first inputs. The same key again finds the call that it made.

        `repeated`: the client says that it asks not for the first time, so the call may have been made, and be finished, long ago.
        """
        pool = await self._pools.taking_work(request.function_id)
        call_id = call_id_of(request.function_id, key) if key else ids.new(ids.CALL)
        if (known := await self._known(call_id, repeated=repeated)) is not None:
            return known, [Accepted(item.idx, input_id_of(call_id, item.idx)) for item in request.pipelined_inputs]
        call = LiveCall(call_id, pool, request.function_call_type, request.function_call_invocation_type)
        row = {
            "call_id": call_id,
            "function_id": request.function_id,
            "app_id": pool.function.app_id,
            "kind": call.kind,
            "invocation": call.invocation,
            "parent_input_id": request.parent_input_id or None,
            "created_at": self._now(),
        }
        fresh, accepted = self._admit(call, request.pipelined_inputs)
        self._live[call_id] = call
        rows = [input_row(item) for item in fresh]
        written = self._database.write(lambda connection: store.insert_call(connection, row, rows))
        self._pools.enqueue(pool, fresh)
        await self._until_written(written, call, fresh)
        return call, accepted

    async def _known(self, call_id: str, *, repeated: bool) -> LiveCall | None:
        """The call that an earlier request under the same key has made, on disk by now."""
        if (known := self.find(call_id)) is not None:
            await self._database.write(lambda connection: None)  # what the earlier request wrote is in front of this
            return known if known.seen or self.find(call_id) is known else None
        if not repeated:
            return None
        try:
            known = await self._revive(call_id)
        except errors.NotFound:
            return None
        if not known.unfinished:
            self._remember(known)
        return known

    async def put_inputs(self, call_id: str, items: Sequence[api_pb2.FunctionPutInputsItem]) -> list[Accepted]:
        """Add inputs to a call. An index that the call has already changes nothing."""
        call = await self._revive(call_id)
        if call.cancelled or call.pool.closed:
            raise errors.WrongState(f"Function call {call_id} was cancelled, or its app has stopped: it takes no more inputs.")
        fresh, accepted = self._admit(call, items)
        if fresh:
            rows = [input_row(item) for item in fresh]
            written = self._database.write(self._webhooks.going_on(call, lambda connection: store.insert_inputs(connection, rows)))
            call.writing = written
            self._pools.enqueue(call.pool, fresh)
            await self._until_written(written, call, fresh)
        if len(fresh) < len(items):  # another request has brought the rest, and may be about to write it: one fate for both
            writing = None
            while call.writing is not writing:
                writing = call.writing
                if writing is not None:
                    await asyncio.shield(writing)  # raises too what has failed a moment ago, and is about to be withdrawn
            if any(item.idx not in call.seen for item in items):
                return await self.put_inputs(call_id, items)
        return accepted

    async def retry(self, call_id: str, wishes: Sequence[tuple[int, api_pb2.FunctionInput, int]]) -> None:
        """The caller asks for another attempt at inputs (index, input, attempt number) whose output it has seen."""
        call = await self._revive(call_id)
        if call.cancelled or call.pool.closed:
            raise errors.WrongState(f"Function call {call_id} was cancelled, or its app has stopped: it takes no more attempts.")
        again: list[LiveInput] = []
        for idx, function_input, retry_count in wishes:
            if idx in call.unfinished or idx not in call.seen:
                continue  # runs already, or never was: the same request again
            payload = function_input.SerializeToString()
            # Some clients count their attempts only on their side: each has a number of its own here.
            seen = call.outputs.get(idx)
            attempt = max(retry_count, seen[1].retry_count + 1 if seen is not None else 0)
            live = LiveInput(input_id_of(call_id, idx), call, idx, payload, self._now(), attempt, state=InputState.DONE)
            live.move(InputEvent.REQUEUE)
            call.unfinished[idx] = live
            call.outputs.pop(idx, None)
            self._pools.payload_bytes += len(payload)
            again.append(live)
        if not again:
            return
        rows = [(item.input_id, item.retry_count, item.payload) for item in again]
        # The last attempt's output may be on its way to the disk yet: its node is to hear of that before it gets the next.
        await self._database.write(self._webhooks.going_on(call, lambda connection: store.reopen_inputs(connection, rows)))
        self._pools.enqueue(call.pool, again)

    def _admit(self, call: LiveCall, items: Sequence[api_pb2.FunctionPutInputsItem]) -> tuple[list[LiveInput], list[Accepted]]:
        if len(call.pool.queue) + len(items) > MAX_WAITING_INPUTS:
            raise errors.OverLimit(
                f"Function {call.pool.function.tag!r} has {len(call.pool.queue)} inputs waiting of at most {MAX_WAITING_INPUTS}. "
                "Wait until some are done, or give it more containers.",
                retry_after_s=5.0,
            )
        fresh: list[LiveInput] = []
        accepted: list[Accepted] = []
        for item in items:
            input_id = input_id_of(call.call_id, item.idx)
            accepted.append(Accepted(item.idx, input_id))
            if item.idx in call.seen:
                continue
            payload = item.input.SerializeToString()
            # A container may have it from the last time, when it could not be written: that one goes on with it.
            live = call.pool.withdrawn.pop(input_id, None) or LiveInput(input_id, call, item.idx, payload, self._now())
            live.call, live.payload, live.withdrawn = call, payload, False
            call.seen.add(item.idx)
            call.unfinished[item.idx] = live
            self._pools.payload_bytes += len(payload)
            fresh.append(live)
        self.accepted_total += len(fresh)
        return fresh, accepted

    async def _until_written(self, written: "asyncio.Future[None]", call: LiveCall, fresh: list[LiveInput]) -> None:
        try:
            await asyncio.shield(written)
        except asyncio.CancelledError:  # who asked has gone; the same may be asked again, meanwhile too
            written.add_done_callback(lambda done: self._withdraw(call, fresh) if done.exception() else None)
            raise
        except Exception:
            self._withdraw(call, fresh)
            raise
        if self._pools.payload_bytes > PAYLOAD_MEMORY_BYTES:
            for item in fresh:
                if item.state is InputState.QUEUED:
                    self._drop_payload(item)

    def _withdraw(self, call: LiveCall, fresh: list[LiveInput]) -> None:
        """These are not on disk, and their caller is told that nothing was accepted: nothing of it may go on."""
        self._pools.withdraw(fresh)
        for item in fresh:
            self._drop_payload(item)
            call.unfinished.pop(item.idx, None)
            call.seen.discard(item.idx)
            call.outputs.pop(item.idx, None)
            item.withdrawn = True
            if item.task is not None:
                call.pool.withdrawn[item.input_id] = item
        if call.writing is not None and call.writing.done():
            call.writing = None
        if not call.seen:
            self._live.pop(call.call_id, None)
            self._remembered.pop(call.call_id, None)

    def _drop_payload(self, item: LiveInput) -> None:
        if item.payload is not None:
            self._pools.payload_bytes -= len(item.payload)
            item.payload = None

    # ---- outputs ----

    async def record(self, task: LiveTask, items: Sequence[api_pb2.FunctionPutOutputsItem]) -> None:
        """Keep what a container sent. Outputs of inputs that it does not hold (any more) are dropped: another has them."""
        finished: list[tuple[LiveInput, api_pb2.FunctionGetOutputsItem]] = []
        for item in items:
            live = task.held.get(item.input_id)
            if live is not None and live.withdrawn:
                self._pools.release(task, live)
                live = None
            if live is None or live.retry_count != item.retry_count:
                log.info("output_ignored", input_id=item.input_id, task_id=task.task_id)
                continue
            self._pools.release(task, live)
            if item.input_started_at:  # not of an input that was cancelled before it began
                task.pool.served(max(0.0, item.output_created_at - item.input_started_at) + BETWEEN_INPUTS_S)
            if self._try_again(live, item.result):
                continue
            if live.move(InputEvent.FINISH):
                finished.append((live, output_item(live, item, task.task_id, self._now())))
        self._pools.pump(task.pool)
        if not finished:
            return
        try:
            await self._finish(finished)
        except Exception:
            # The node is told, and sends the outputs again: until then its container has the inputs as before.
            for live, _ in finished:
                self._pools.hold_again(task, live)
            raise

    async def fail(self, inputs: Sequence[LiveInput], result: Result, task_id: str = "", *, may_retry: bool = False) -> None:
        """End inputs with a result of ours: their container can't answer for them."""
        finished: list[tuple[LiveInput, api_pb2.FunctionGetOutputsItem]] = []
        ended: list[LiveInput] = []
        for live in inputs:
            if live.task is not None:
                self._pools.release(live.task, live)
            if live.withdrawn or (may_retry and self._try_again(live, result)):
                continue
            ended.append(live)
        self._pools.withdraw(ended)
        for live in ended:
            if live.move(InputEvent.FINISH):
                put = api_pb2.FunctionPutOutputsItem(result=result, output_created_at=self._now())
                finished.append((live, output_item(live, put, task_id, self._now())))
        if finished:
            await self._finish_surely(finished)

    async def _finish_surely(self, finished: Sequence[tuple[LiveInput, api_pb2.FunctionGetOutputsItem]]) -> None:
        """Outputs of ours are kept by nobody else: a disk that is full is tried again until it is not."""
        delay_s = FIRST_RETRY_S
        while True:
            try:
                return await self._finish(finished)
            except errors.DiskFull as error:
                log.error("outputs_not_stored", inputs=len(finished), cause=str(error), retry_in_s=delay_s)
            except Exception as error:
                log.error("outputs_not_stored", inputs=len(finished), exc_info=error)
            await asyncio.sleep(delay_s)
            delay_s = min(LONGEST_RETRY_S, delay_s * 2)

    async def _finish(self, finished: Sequence[tuple[LiveInput, api_pb2.FunctionGetOutputsItem]]) -> None:
        rows: list[dict[str, Any]] = []
        for live, item in finished:
            call = live.call
            seq, call.next_seq = call.next_seq, call.next_seq + 1
            rows.append(
                {
                    "input_id": live.input_id,
                    "call_id": call.call_id,
                    "idx": live.idx,
                    "seq": seq,
                    "item": item.SerializeToString(),
                    "status": item.result.status,
                    "task_id": item.task_id,
                    "created_at": item.output_created_at,
                    "started_at": item.input_started_at or None,
                    "retry_count": live.retry_count,
                }
            )
        numbered = [(live, int(row["seq"]), item) for (live, item), row in zip(finished, rows, strict=True)]
        # A caller that waits right now may see its output while it is on the way to the disk: were it lost there, the node
        # would send the same again, since it keeps it until it is stored. Who asks later finds what is on disk.
        early: list[Numbered] = []
        late: list[Numbered] = []
        for entry in numbered:
            (early if self._may_be_early(entry[0].call) else late).append(entry)
        written = self._webhooks.writing(numbered, lambda connection: store.insert_outputs(connection, rows), patient=not late)
        self._show(early)
        await written
        self.finished_total += len(rows)
        self._show(late)

    def _may_be_early(self, call: LiveCall) -> bool:
        """Whether an output may be seen before it is on disk: not by who looks there, comes back later, or reads a stream."""
        has_stream = call.pool.is_generator or self.streams.is_read(call.call_id)
        return call.client_retries and call.outputs_complete and not has_stream

    def _show(self, finished: Sequence[Numbered]) -> None:
        for live, seq, item in finished:
            self._drop_payload(live)
            if live.call.unfinished.get(live.idx) is live:
                del live.call.unfinished[live.idx]
                live.call.outputs[live.idx] = (seq, item)
        for call in {live.call for live, _, _ in finished}:
            call.wake()
            self.streams.wake(call.call_id)
            if not call.unfinished:
                self._remember(call)

    def _try_again(self, live: LiveInput, result: Result) -> bool:
        """Schedule the next attempt of the user's policy, where the server drives it. True: no output is to be recorded."""
        if result.status in (Result.GENERIC_STATUS_SUCCESS, Result.GENERIC_STATUS_TERMINATED):
            return False
        if live.call.client_retries or live.call.cancelled or live.call.pool.closed:
            return False
        delay_s = retry_policy_of(live.call.pool.definition).delay_s(live.retry_count)
        if delay_s is None or not live.move(InputEvent.DELAY):
            return False
        live.retry_count += 1
        again = (live.input_id, live.retry_count, None)
        self._database.write_unattended(lambda connection: store.reopen_inputs(connection, [again]), "another attempt")

        def requeue() -> None:
            self._delayed.discard(handle)
            if not live.withdrawn and live.move(InputEvent.REQUEUE):
                self._pools.enqueue(live.call.pool, [live])

        handle = asyncio.get_running_loop().call_later(delay_s, requeue)
        self._delayed.add(handle)
        return True

    async def outputs(self, call_id: str, wish: Wish) -> Outputs:
        """The outputs that a caller asks for. Raises NotFound for an unknown call."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wish.timeout_s
        found = await self._reader.read(call_id, wish)
        has_failed = any(item.result.status != Result.GENERIC_STATUS_SUCCESS for item in found.items)
        is_overtaking = bool(wish.timeout_s) and has_failed and self._is_iterated(call_id)
        if is_overtaking and not await self.streams.handed_on(call_id, deadline - clock()):
            return Outputs([], wish.after_seq, found.unfinished)
        return found

    def _is_iterated(self, call_id: str) -> bool:
        """Whether somebody reads what a call may have yielded, or is about to: whoever made it and waits may be iterating."""
        call = self.find(call_id)
        return self.streams.is_read(call_id) or (call is not None and call.client_retries)

    # ---- cancelling ----

    async def cancel(self, call_id: str, *, terminate_containers: bool = False) -> None:
        """Stop a call: what waits ends now, what runs is interrupted, or killed with its container. Safe to repeat."""
        call = self.find(call_id)
        if call is None:
            if await self._database.read(lambda connection: store.call_row(connection, call_id)) is None:
                raise errors.NotFound(f"There is no function call {call_id}.")
            return
        call.cancelled = True
        at = self._now()
        await self._database.write(lambda connection: store.set_cancelled(connection, call_id, at))
        running = [item for item in call.unfinished.values() if item.state is InputState.LEASED]
        waiting = [item for item in call.unfinished.values() if item.state is not InputState.LEASED]
        self._pools.interrupt(running, terminate_containers=terminate_containers)
        if terminate_containers:
            waiting += running
        await self.fail(waiting, Result(status=Result.GENERIC_STATUS_TERMINATED, exception="The call was cancelled."))
        call.wake()
        self.streams.wake(call_id)

    async def end_pool(self, pool: Pool, why: str) -> None:
        """Its app has stopped: end all that was asked of it."""
        doomed = [item for call in list(self._live.values()) if call.pool is pool for item in call.unfinished.values()]
        for item in doomed:
            item.call.cancelled = True
        await self.fail(doomed, Result(status=Result.GENERIC_STATUS_TERMINATED, exception=why))
        for call in [call for call in self._live.values() if call.pool is pool]:
            call.cancelled = True
            call.wake()
            self._remember(call)

    # ---- memory, and what is rebuilt from the rows ----

    def _is_finished(self, call_id: str) -> bool:
        call = self.find(call_id)
        return call is None or not call.unfinished

    def find(self, call_id: str) -> LiveCall | None:
        return self._live.get(call_id) or self._remembered.get(call_id)

    def _remember(self, call: LiveCall) -> None:
        """A finished call: kept a while for who waits for it, then only on disk."""
        if call.may_grow and not call.pool.closed:
            return  # a map may get more inputs; it is let go with its app, or by `forget_idle_maps`
        self._live.pop(call.call_id, None)
        if not call.is_map and not call.waiters and not call.client_retries:
            return
        self._remembered[call.call_id] = call
        while len(self._remembered) > REMEMBERED_CALLS:
            self._remembered.popitem(last=False)

    async def _revive(self, call_id: str) -> LiveCall:
        """The live form of a call, read from disk if need be."""
        if (call := self._live.get(call_id)) is not None:
            return call
        if (call := self._remembered.pop(call_id, None)) is not None:
            self._live[call_id] = call
            return call

        def query(connection: Connection):
            return (
                store.call_row(connection, call_id),
                store.input_rows(connection, call_id),
                store.highest_seq(connection, call_id),
            )

        row, inputs, seq = await self._database.read(query)
        if row is None:
            raise errors.NotFound(f"There is no function call {call_id}.")
        pool = await self._pools.even_of_stopped(row.function_id)
        call = LiveCall(call_id, pool, row.kind, row.invocation, next_seq=seq + SEQ_GAP, outputs_complete=False)
        call.seen = {item.idx for item in inputs}
        call.cancelled = row.cancelled_at is not None
        return self._live.setdefault(call_id, call)

    async def restore(self) -> list[LiveInput]:
        """Rebuild the live calls from the rows after a start. The inputs are not queued yet: a node may still hold them."""
        rows = await self._database.read(store.unfinished)
        restored: list[LiveInput] = []
        for row in rows:
            try:
                call = await self._revive(row.call_id)
            except errors.PilotlightError as error:  # its app stopped so long ago that its functions were removed
                log.warning("input_without_function", input_id=row.input_id, error=str(error))
                continue
            live = LiveInput(row.input_id, call, row.idx, None, row.created_at, retry_count=row.retry_count, deaths=row.deaths)
            call.unfinished[row.idx] = live
            restored.append(live)
        for call in list(self._live.values()):
            if call.cancelled:
                await self.fail(list(call.unfinished.values()), Result(status=Result.GENERIC_STATUS_TERMINATED))
        return [item for item in restored if item.state is not InputState.DONE]

    def let_go(self, call_id: str) -> None:
        """The caller has all outputs that it wants: they stay on disk, not in memory."""
        self.complete(call_id)
        call = self._live.get(call_id)
        if call is not None and not call.unfinished and not call.waiters:
            del self._live[call_id]
        self._remembered.pop(call_id, None)

    def complete(self, call_id: str) -> None:
        """The caller of a map sends no more inputs."""
        if (call := self.find(call_id)) is not None:
            call.inputs_complete = True
        self._webhooks.complete(call_id)

    def may_go_on(self, call_id: str) -> bool:
        """Whether the caller of a map is there, and may send more inputs."""
        return (call := self._live.get(call_id)) is not None and call.may_go_on(MAP_SETTLE_S)

    async def forget_idle_maps(self) -> int:
        """Let go of finished maps whose caller has not been seen for long, perhaps because it died; returns how many."""
        before = asyncio.get_running_loop().time() - IDLE_MAP_S
        idle = [call for call in self._live.values() if not (call.unfinished or call.waiters) and call.looked_at < before]
        for call in idle:
            del self._live[call.call_id]
        return len(idle)

    def forget_finished_maps(self, pools: Sequence[Pool]) -> None:
        """Let go of the maps of functions whose app has ended."""
        for call in [call for call in self._live.values() if call.pool in pools and not call.unfinished]:
            del self._live[call.call_id]

    def pools(self) -> set[Pool]:
        """Those of all calls that somebody may ask about, or that go on."""
        return {call.pool for calls in (self._live, self._remembered) for call in calls.values()}

    def is_busy(self, app_id: str) -> bool:
        """Whether an input of this app has no output yet."""
        return any(call.unfinished for call in self._live.values() if call.pool.function.app_id == app_id)

    def live_counts(self) -> tuple[int, int]:
        """Live calls, and their unfinished inputs."""
        return len(self._live), sum(len(call.unfinished) for call in self._live.values())
