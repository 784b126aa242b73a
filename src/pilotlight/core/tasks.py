"""The life of one task (a running container)."""

from enum import Enum


class TaskState(Enum):
    STARTING = "starting"  # sent to a node, has not asked for an input yet
    READY = "ready"  # takes inputs
    DRAINING = "draining"  # finishes what it has, takes nothing more
    STOPPING = "stopping"  # was told to end
    FINISHED = "finished"


class TaskEvent(Enum):
    ASK = "ask"  # asked for its first input
    DRAIN = "drain"
    STOP = "stop"
    EXIT = "exit"


_TRANSITIONS: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.STARTING, TaskEvent.ASK): TaskState.READY,
    (TaskState.STARTING, TaskEvent.DRAIN): TaskState.STOPPING,
    (TaskState.STARTING, TaskEvent.STOP): TaskState.STOPPING,
    (TaskState.STARTING, TaskEvent.EXIT): TaskState.FINISHED,
    (TaskState.READY, TaskEvent.DRAIN): TaskState.DRAINING,
    (TaskState.READY, TaskEvent.STOP): TaskState.STOPPING,
    (TaskState.READY, TaskEvent.EXIT): TaskState.FINISHED,
    (TaskState.DRAINING, TaskEvent.STOP): TaskState.STOPPING,
    (TaskState.DRAINING, TaskEvent.EXIT): TaskState.FINISHED,
    (TaskState.STOPPING, TaskEvent.EXIT): TaskState.FINISHED,
}


def next_state(state: TaskState, event: TaskEvent) -> TaskState | None:
    """Where the event leads, or None where it changes nothing."""
    return _TRANSITIONS.get((state, event))
