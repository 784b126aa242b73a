"""The queue in front of each function, and how its inputs get to containers.

An input is handed out at most once at a time: it is either in the queue of its pool, held by exactly one task, or waiting for its
next attempt. Nothing here touches the disk on the way of a warm call.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import structlog
from modal_proto import api_pb2

from pilotlight.control.functions import Functions
from pilotlight.control.live import LiveInput, LiveTask, Pool
from pilotlight.control.nodes import Nodes
from pilotlight.core import errors
from pilotlight.core.inputs import InputEvent, InputState
from pilotlight.core.tasks import TaskState
from pilotlight.store import calls as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

PAYLOADS_PER_READ = 256
MESSAGE_BYTES = 16 * 1024 * 1024  # of inputs in one message to a node
BATCH_BYTES = 128 * 1024 * 1024  # of inputs in one batch, which travels in one message
RECALL_AFTER_S = 0.1  # what was given ahead of its turn and has not had it by then may go to others
CANCEL_GRACE_S = 5  # for user code that a cancellation has interrupted, before its container is killed


class Pools:
    """All pools. Lives on the event loop's thread."""

    def __init__(self, database: Database, functions: Functions, nodes: Nodes) -> None:
        self._database = database
        self._functions = functions
        self._nodes = nodes
        self._pools: dict[str, Pool] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self.payload_bytes = 0  # of inputs without an output, as far as they are in memory
        self.dirty: dict[Pool, None] = {}  # in the order in which they asked
        self.short: dict[Pool, bool] = {}  # these want more than there was room for, in this order; whether there may be once
        self.is_room_wanted = False  # by some of them: containers that have nothing to do may have to end for it
        self.changed = asyncio.Event()  # something happened that may ask for more or fewer containers
        self.force_stop: Callable[[LiveTask, str], None] = lambda task, reason: None
        self.is_live: Callable[[str], bool] = lambda app_id: True  # whether an app has not stopped

    def __iter__(self) -> Iterator[Pool]:
        return iter(list(self._pools.values()))

    async def of_function(self, function_id: str) -> Pool:
        """The pool of a function. Raises NotFound, or WrongState where its app is not published or has stopped."""
        if (pool := self._pools.get(function_id)) is not None:
            if pool.closed:
                raise _stopped(pool)
        else:
            record = await self._functions.get(function_id)
            pool = self._pools.setdefault(function_id, Pool(record))
        pool.used_at = asyncio.get_running_loop().time()
        return pool

    async def taking_work(self, function_id: str) -> Pool:
        """As `of_function`, for new work: also where the app stopped so long ago that no pool of it is left."""
        pool = await self.of_function(function_id)
        if not self.is_live(pool.function.app_id):
            self.drop(pool)
            raise _stopped(pool)
        return pool

    async def even_of_stopped(self, function_id: str) -> Pool:
        """As `of_function`, but closed where its app has stopped; one that was not in use any more is then kept by nobody."""
        if (pool := self._pools.get(function_id)) is not None:
            return pool
        record = await self._functions.get(function_id)
        if not self.is_live(record.app_id):
            self._functions.forget_one(function_id)
            return Pool(record, closed=True)
        return await self.of_function(function_id)

    async def definition_of(self, pool: Pool, definition_id: str) -> api_pb2.Function:
        """What a container of this pool runs that was started with this definition."""
        return await self._functions.as_defined(pool.function, definition_id)

    def find(self, function_id: str) -> Pool | None:
        """The pool of a function, if it is in use."""
        return self._pools.get(function_id)

    def of_app(self, app_id: str) -> list[Pool]:
        return [pool for pool in self._pools.values() if pool.function.app_id == app_id]

    def drop(self, pool: Pool) -> None:
        """Forget a pool that has ended and holds nothing."""
        if not pool.tasks and not pool.queue:
            self._pools.pop(pool.function_id, None)
            self.dirty.pop(pool, None)
            self.short.pop(pool, None)

    def touch(self, pool: Pool) -> None:
        """Have the number of its containers thought over."""
        self.dirty[pool] = None
        self.changed.set()

    def enqueue(self, pool: Pool, inputs: Sequence[LiveInput], *, in_front: bool = False) -> None:
        """Put inputs into the queue, and into containers that are free; not those that a container has already."""
        waiting = [item for item in inputs if item.state is InputState.QUEUED]
        if in_front:
            pool.queue.extendleft(reversed(waiting))
        else:
            pool.queue.extend(waiting)
        self.pump(pool)

    def withdraw(self, inputs: Sequence[LiveInput]) -> None:
        """Take inputs out of their queues, where they are in one: a hundred thousand as easily as one."""
        leaving = {item for item in inputs if item.state is InputState.QUEUED}
        for pool in {item.call.pool for item in leaving}:
            pool.queue = deque(item for item in pool.queue if item not in leaving)

    def release(self, task: LiveTask, item: LiveInput) -> None:
        """A task no longer has an input."""
        task.held.pop(item.input_id, None)
        task.pool.withdrawn.pop(item.input_id, None)
        item.task = None
        if not task.load:
            task.idle_since = asyncio.get_running_loop().time()
            if not task.pool.watched or self.is_room_wanted:
                self.touch(task.pool)

    def give_back(self, item: LiveInput) -> None:
        """Return an input of a container that can't finish it to the head of its queue."""
        if item.task is not None:
            self.release(item.task, item)
        if not item.withdrawn and item.move(InputEvent.GIVE_BACK):
            item.call.pool.queue.appendleft(item)

    def hold_again(self, task: LiveTask, item: LiveInput) -> None:
        """A task's output for this could not be kept: it has the input as before."""
        if item.withdrawn or not item.move(InputEvent.REQUEUE):
            return
        if task.state is TaskState.FINISHED:
            self.enqueue(item.call.pool, [item], in_front=True)
        else:
            self.adopt(task, item)

    def adopt(self, task: LiveTask, item: LiveInput) -> None:
        """Believe a node that this task holds this input already."""
        item.move(InputEvent.LEASE)
        item.leased_at = asyncio.get_running_loop().time()
        item.task = task
        task.held[item.input_id] = item
        task.taken += 1
        if task.state is TaskState.STARTING:
            task.pool.took_along = task

    def pump(self, pool: Pool) -> None:
        """Hand out what waits to whoever is free."""
        if pool.batch_size:
            self._pump_batches(pool)
        else:
            self._pump_singly(pool)
        if pool.queue or not pool.tasks:
            self.touch(pool)

    def first_inputs(self, task: LiveTask) -> list[platform_pb2.DeliverInputs]:
        """What the only container of a pool takes along to its start, so that it need not ask for it.

        Only one does: of several that start, whoever is ready first takes what waits.
        """
        pool = task.pool
        if pool.batch_size or any(other is not task for other in pool.live_tasks()):
            return []
        taken: list[LiveInput] = []
        slots = 1 if pool.single_use else task.slots
        while pool.queue and len(taken) < slots and pool.queue[0].payload is not None:
            taken.append(self._hold(task, pool.queue.popleft()))
        pool.took_along = task if taken else None
        return [_delivery_of(task, taken)] if taken else []

    def _recall_first_inputs(self, pool: Pool, task: LiveTask) -> None:
        """If a container is free while this one still starts, what it took along may come to the free one."""
        if task.state is not TaskState.STARTING or not task.held:
            pool.took_along = None
        elif any(other.free_slots for other in pool.tasks.values()):
            pool.took_along = None
            recall = platform_pb2.RecallInputs(task_id=task.task_id, input_ids=list(task.held))
            self._nodes.send(task.node_id, platform_pb2.NodeCommand(recall=recall))

    def _pump_singly(self, pool: Pool) -> None:
        granted: dict[LiveTask, list[LiveInput]] = defaultdict(list)
        while pool.queue and pool.queue[0].payload is not None and (task := _freest(pool, 1)) is not None:
            granted[task].append(self._hold(task, pool.queue.popleft()))
        if pool.queue and (ahead := pool.ahead):
            self._grant_ahead(pool, ahead, granted)
        for task, inputs in granted.items():
            self._deliver(task, inputs)
        if pool.queue and pool.queue[0].payload is None:
            self._read_payloads(pool)
        elif not pool.queue and pool.took_along is not None:
            self._recall_first_inputs(pool, pool.took_along)

    def _grant_ahead(self, pool: Pool, ahead: int, granted: dict[LiveTask, list[LiveInput]]) -> None:
        """Give busy containers what they will come to in a moment, so that they need not wait for it."""
        late = asyncio.get_running_loop().time() - RECALL_AFTER_S
        ready = [
            task
            for task in pool.tasks.values()
            if task.state is TaskState.READY and (not task.held or next(iter(task.held.values())).leased_at > late)
        ]
        share = -(-len(pool.queue) // max(1, len(ready)))
        for task in sorted(ready, key=lambda task: len(task.held)):
            room = task.slots + ahead - len(task.held)
            if room * 2 <= ahead and task not in granted:
                continue  # it has enough for now: the next message brings more at once
            for _ in range(min(room, share)):
                if not pool.queue or pool.queue[0].payload is None:
                    break
                granted[task].append(self._hold(task, pool.queue.popleft()))
            if len(task.held) > task.slots and task.recall is None:
                task.recall = asyncio.get_running_loop().call_later(RECALL_AFTER_S, self._recall, task)

    def _recall(self, task: LiveTask) -> None:
        """Ask for the return of what was given ahead, if what is before it takes longer than it was thought to."""
        loop = asyncio.get_running_loop()
        task.recall = None
        held = list(task.held.values())
        if len(held) <= task.slots or task.state not in (TaskState.READY, TaskState.DRAINING):
            return
        if loop.time() - held[0].leased_at >= RECALL_AFTER_S:
            surplus = [item.input_id for item in held[task.slots :]]
            recall = platform_pb2.RecallInputs(task_id=task.task_id, input_ids=surplus)
            self._nodes.send(task.node_id, platform_pb2.NodeCommand(recall=recall))
        task.recall = loop.call_later(RECALL_AFTER_S, self._recall, task)

    def _pump_batches(self, pool: Pool) -> None:
        loop = asyncio.get_running_loop()
        while pool.queue and (task := _freest(pool, pool.batch_size)) is not None:
            size = _batch_within_bytes(pool)
            linger_s = pool.definition.batch_linger_ms / 1000
            if size < pool.batch_size and linger_s > 0 and not pool.has_lingered:
                if pool.linger is None:
                    pool.linger = loop.call_later(linger_s, self._linger_over, pool)
                return
            if any(pool.queue[number].payload is None for number in range(size)):
                self._read_payloads(pool)
                return
            self._end_linger(pool)
            self._lease(task, [pool.queue.popleft() for _ in range(size)])

    def _linger_over(self, pool: Pool) -> None:
        # That the timer has fired is what counts: the clock may lag behind it by a rounding.
        self._end_linger(pool)
        pool.has_lingered = bool(pool.queue)
        self._pump_batches(pool)
        self.touch(pool)

    def _end_linger(self, pool: Pool) -> None:
        pool.has_lingered = False
        if pool.linger is not None:
            pool.linger.cancel()
            pool.linger = None

    def _lease(self, task: LiveTask, batch: Sequence[LiveInput]) -> None:
        self._deliver(task, [self._hold(task, item) for item in batch])

    def _hold(self, task: LiveTask, item: LiveInput) -> LiveInput:
        item.move(InputEvent.LEASE)
        item.leased_at = asyncio.get_running_loop().time()
        item.task = task
        task.held[item.input_id] = item
        task.taken += 1
        return item

    def _deliver(self, task: LiveTask, inputs: Sequence[LiveInput]) -> None:
        self._nodes.send(task.node_id, platform_pb2.NodeCommand(deliver=_delivery_of(task, inputs)))

    def _read_payloads(self, pool: Pool) -> None:
        if pool.reading:
            return
        pool.reading = True

        async def read() -> None:
            try:
                heads = [pool.queue[number] for number in range(min(PAYLOADS_PER_READ, len(pool.queue)))]
                wanted = [item.input_id for item in heads if item.payload is None]
                found = await self._database.read(lambda connection: store.payloads(connection, wanted))
                for item in heads:
                    if item.payload is None and item.state is InputState.QUEUED:
                        item.payload = found.get(item.input_id, b"")
                        self.payload_bytes += len(item.payload)
            finally:
                pool.reading = False
            self.pump(pool)

        task = asyncio.get_running_loop().create_task(read())
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    def interrupt(self, running: Sequence[LiveInput], *, terminate_containers: bool) -> None:
        """Have containers stop working on inputs; each then sends an output that says so, or is killed after a grace."""
        by_task: dict[LiveTask, list[str]] = defaultdict(list)
        for item in running:
            if item.task is not None:
                by_task[item.task].append(item.input_id)
        for task, input_ids in by_task.items():
            if terminate_containers:
                self.force_stop(task, "the call was cancelled, with its containers")
                continue
            cancel = platform_pb2.CancelInputs(task_id=task.task_id, input_ids=input_ids, grace_s=CANCEL_GRACE_S)
            self._nodes.send(task.node_id, platform_pb2.NodeCommand(cancel=cancel))


def _freest(pool: Pool, room: int) -> LiveTask | None:
    """The task with the fewest inputs among those with so much room."""
    best: LiveTask | None = None
    for task in pool.tasks.values():
        if task.free_slots >= room and (best is None or len(task.held) < len(best.held)):
            best = task
            if not task.held:
                break
    return best


def _batch_within_bytes(pool: Pool) -> int:
    """How many of the waiting inputs make the next batch: as many as the function takes, and as one message holds."""
    size, size_bytes = 0, 0
    for item in islice(pool.queue, pool.batch_size):
        size_bytes += len(item.payload or b"")
        if size and size_bytes > BATCH_BYTES:
            break
        size += 1
    return size


def _delivery_of(task: LiveTask, inputs: Sequence[LiveInput]) -> platform_pb2.DeliverInputs:
    leases = [
        platform_pb2.Lease(input_id=item.input_id, attempt=item.retry_count, item=_delivery(item), call_id=item.call.call_id)
        for item in inputs
    ]
    return platform_pb2.DeliverInputs(task_id=task.task_id, leases=leases)


def _delivery(item: LiveInput) -> bytes:
    return api_pb2.FunctionGetInputsItem(
        input_id=item.input_id,
        input=api_pb2.FunctionInput.FromString(item.payload or b""),
        function_call_id=item.call.call_id,
        function_call_invocation_type=item.call.invocation,  # pyright: ignore[reportArgumentType]
        retry_count=item.retry_count,
        function_map_idx=item.idx if item.call.is_map else None,
    ).SerializeToString()


def _stopped(pool: Pool) -> errors.WrongState:
    return errors.WrongState(f"The app of function {pool.function.tag!r} has stopped. Deploy or run it again.")
