"""What is going on right now: calls with unfinished inputs, pools with their queues, tasks with what they hold.

All of it lives on the event loop's thread and can be rebuilt from the rows (inputs, tasks) and from what the nodes report. Small on
purpose: a spawned input that waits costs well under 2 KiB.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field

from modal_proto import api_pb2

from pilotlight.control.functions import FunctionRecord
from pilotlight.control.web_definitions import is_web
from pilotlight.core import inputs as input_states
from pilotlight.core import tasks as task_states
from pilotlight.core.inputs import InputEvent, InputState
from pilotlight.core.tasks import TaskEvent, TaskState

SERVICE_WEIGHT = 0.2  # of the latest input in the mean of a pool
STARTUP_WEIGHT = 0.3  # of the latest start, likewise
BETWEEN_INPUTS_S = 0.001  # what a container spends on an input outside of the user's code
AHEAD_S = 0.02  # inputs are given ahead where so much work of a container would be waiting at most
MOST_AHEAD = 8
SERVER_SLOTS = 1_000  # requests at a time that a modal.Server gets whose author names no number


@dataclass(slots=True, eq=False)
class LiveInput:
    """One input without a recorded output."""

    input_id: str
    call: "LiveCall"
    idx: int
    payload: bytes | None  # FunctionInput; None: on disk only, to be read before it is handed out
    queued_at: float
    retry_count: int = 0
    deaths: int = 0
    state: InputState = InputState.QUEUED
    task: "LiveTask | None" = None
    leased_at: float = 0.0  # on the loop's clock
    withdrawn: bool = False  # its caller was told that it is not accepted; a container may have it all the same

    def move(self, event: InputEvent) -> bool:
        """Apply the event; False if somebody was faster."""
        following = input_states.next_state(self.state, event)
        if following is None:
            return False
        self.state = following
        return True


@dataclass(slots=True, eq=False)
class LiveCall:
    """One function call that is watched or unfinished."""

    call_id: str
    pool: "Pool"
    kind: int  # FunctionCallType
    invocation: int  # FunctionCallInvocationType
    unfinished: dict[int, LiveInput] = field(default_factory=dict)  # by idx
    seen: set[int] = field(default_factory=set)  # every idx ever accepted
    next_seq: int = 1
    outputs: dict[int, tuple[int, api_pb2.FunctionGetOutputsItem]] = field(default_factory=dict)  # idx → (seq, item), by seq
    outputs_complete: bool = True  # False: some outputs are on disk only
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    cancelled: bool = False
    inputs_complete: bool = False  # of a map: its caller has said that it sends no more
    looked_at: float = field(default_factory=lambda: asyncio.get_running_loop().time())  # when its caller was last seen
    wakes: int = 0  # how often there was something new: who reads the disk meanwhile misses nothing
    writing: "asyncio.Future[None] | None" = None  # the last of the inputs that were added, on their way to the disk

    def wake(self) -> None:
        """Let everyone look again who waits for an output."""
        self.wakes += 1
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    @property
    def is_map(self) -> bool:
        return self.kind == api_pb2.FUNCTION_CALL_TYPE_MAP

    @property
    def may_grow(self) -> bool:
        """Whether inputs may still come. Who spawns a map learns its id, and can ask for outputs, only when all are sent."""
        return self.is_map and self.client_retries and not self.cancelled

    def may_go_on(self, patience_s: float) -> bool:
        """Whether the caller of a map may send more inputs: it has not said otherwise, and was seen so lately."""
        if not self.may_grow or self.inputs_complete:
            return False
        return bool(self.waiters) or self.looked_at > asyncio.get_running_loop().time() - patience_s

    @property
    def client_retries(self) -> bool:
        """Whether the caller drives the retries of the user's policy itself."""
        return self.invocation in (
            api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC,
            api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC_LEGACY,
        )


@dataclass(slots=True, eq=False)
class LiveTask:
    """One container, as the server sees it."""

    task_id: str
    pool: "Pool"
    node_id: str
    definition_id: str
    definition: api_pb2.Function  # what it runs, which a newer deployment does not change
    milli_cpu: int
    memory_mib: int
    created_at: float
    slots: int
    state: TaskState = TaskState.STARTING
    held: dict[str, LiveInput] = field(default_factory=dict)  # by input id
    taken: int = 0  # inputs ever given to it
    idle_since: float = 0.0
    started_at: float = 0.0
    ready_at: float = 0.0
    recall: asyncio.TimerHandle | None = None  # when what it was given ahead may be asked back
    stop_reason: str = ""
    failure: api_pb2.GenericResult | None = None  # what it said of its own start
    address: str = ""  # of its network interface
    web_node: str = ""  # where edges reach its node
    web_running: int = 0  # requests of HTTP that it works on

    @property
    def volume_ids(self) -> set[str]:
        """The volumes that it has mounted."""
        return {mount.volume_id for mount in self.definition.volume_mounts}

    def move(self, event: TaskEvent) -> bool:
        """Apply the event; False if it changes nothing."""
        following = task_states.next_state(self.state, event)
        if following is None:
            return False
        self.state = following
        return True

    @property
    def is_outdated(self) -> bool:
        """Whether it runs another definition than the live one."""
        return self.definition_id != self.pool.function.definition_id

    @property
    def is_idle(self) -> bool:
        """Whether it could work, and has nothing to do."""
        return self.state is TaskState.READY and not self.load

    @property
    def load(self) -> int:
        """Inputs and requests of HTTP that it has."""
        return len(self.held) + self.web_running

    @property
    def free_slots(self) -> int:
        if self.state is not TaskState.READY or self.is_outdated:
            return 0
        if self.pool.single_use:
            return 0 if self.taken else 1
        return self.slots - self.load


@dataclass(slots=True, eq=False)
class Pool:
    """All containers and waiting inputs of one function (of one parameter set of a class)."""

    function: FunctionRecord
    queue: deque[LiveInput] = field(default_factory=deque)
    tasks: dict[str, LiveTask] = field(default_factory=dict)
    withdrawn: dict[str, LiveInput] = field(default_factory=dict)  # by input id, as long as containers have them
    took_along: LiveTask | None = None  # it starts with inputs that another could begin sooner, and was not asked for them back
    startup_failures: int = 0  # starts in a row that failed
    startup_faults: int = 0  # those of them that were its own fault, as a full disk is not
    not_before: float = 0.0  # no start earlier than this: the last ones failed
    last_failure: str = ""
    crashes: int = 0  # containers in a row that ended unasked, without an input that finished in between
    calm_until: float = 0.0  # none that nobody waits for is started earlier, for so many have died
    why_waiting: str = ""
    short_since: float | None = None  # on the loop's clock: since then its containers are too few
    unplaceable_since: float | None = None  # on the loop's clock: since then inputs wait that no node can run
    closed: bool = False  # its app has stopped
    used_at: float = 0.0  # on the loop's clock: when it was last asked for
    linger: asyncio.TimerHandle | None = None  # a batch that is not full waits for company until then
    has_lingered: bool = False  # it has waited long enough: who is free next takes what there is
    reading: bool = False  # payloads at the head of the queue are being fetched from disk
    watched: bool = False  # a timer will have its containers thought over in time to end idle ones
    mean_service_s: float | None = None  # of the inputs that finished, the latest weighing most
    mean_startup_s: float | None = None  # of its containers, from the decision to their first input
    web_waiting: int = 0  # requests of HTTP that wait at edges
    web_waiting_since: float = 0.0  # on the loop's clock: since then there is always one
    rolling: bool = False  # containers of the version before serve the web until one of the new version does

    @property
    def ahead(self) -> int:
        """How many inputs a container is given beyond those that it works on: as many as it does in a moment."""
        if self.mean_service_s is None or self.single_use or self.batch_size or self.concurrency > 1:
            return 0
        return min(MOST_AHEAD, int(AHEAD_S / self.mean_service_s))

    def started_up(self, startup_s: float) -> None:
        """Learn from a container that is ready."""
        known = self.mean_startup_s
        self.mean_startup_s = startup_s if known is None else known + STARTUP_WEIGHT * (startup_s - known)

    def served(self, service_s: float) -> None:
        """Learn from an input that has finished."""
        self.crashes = 0
        known = self.mean_service_s
        self.mean_service_s = service_s if known is None else known + SERVICE_WEIGHT * (service_s - known)

    def service_s(self, now: float) -> float | None:
        """How long an input takes: what was learned, or longer if those that run now have taken longer already."""
        working = [task for task in self.tasks.values() if task.held and task.state is not TaskState.STARTING]
        running = [now - next(iter(task.held.values())).leased_at for task in working]
        if self.web_waiting:
            running.append(now - self.web_waiting_since)
        if self.mean_service_s is None:
            return None
        return max([self.mean_service_s, *running])

    @property
    def function_id(self) -> str:
        return self.function.function_id

    @property
    def definition(self) -> api_pb2.Function:
        return self.function.definition

    @property
    def single_use(self) -> bool:
        return self.definition.single_use_containers or self.definition.max_inputs == 1

    @property
    def is_generator(self) -> bool:
        """Whether its calls yield. Methods of a class may as well, whatever this says."""
        return self.definition.function_type == api_pb2.Function.FUNCTION_TYPE_GENERATOR

    @property
    def is_web(self) -> bool:
        """Whether requests of HTTP reach it."""
        return is_web(self.definition)

    @property
    def waiting(self) -> int:
        """Inputs and requests of HTTP without a container."""
        return len(self.queue) + self.web_waiting

    @property
    def concurrency(self) -> int:
        if self.definition.is_server:
            return self._server_concurrency
        return max(1, self.definition.target_concurrent_inputs or self.definition.max_concurrent_inputs)

    @property
    def _server_concurrency(self) -> int:
        wished = self.definition.autoscaler_settings.target_concurrency_float or self.definition.http_config.target_concurrency
        return math.ceil(wished or self.definition.max_concurrent_inputs or SERVER_SLOTS)

    @property
    def max_concurrency(self) -> int:
        """Inputs or requests that a container takes at a time."""
        if self.definition.is_server:
            return self.definition.max_concurrent_inputs or SERVER_SLOTS
        return max(1, self.definition.max_concurrent_inputs)

    @property
    def batch_size(self) -> int:
        """Largest batch of a @batched function, 0 for all others."""
        return self.definition.batch_max_size

    def live_tasks(self) -> list[LiveTask]:
        """Those that take or will take inputs."""
        return [task for task in self.tasks.values() if task.state in (TaskState.STARTING, TaskState.READY)]
