"""The life of one input: which states it may be in, and what may happen to it there."""

from enum import Enum, IntEnum


class Recorded(IntEnum):
    """What the row of an input says; who holds it right now is known to the live queues only."""

    UNFINISHED = 0
    FINISHED = 1


class InputState(Enum):
    QUEUED = "queued"  # waits for a container
    LEASED = "leased"  # a container has it
    DELAYED = "delayed"  # waits for its time to be tried again
    DONE = "done"  # its output is recorded


class InputEvent(Enum):
    LEASE = "lease"  # given to a container
    GIVE_BACK = "give back"  # the container can't finish it: it died, was stopped, or never took it
    FINISH = "finish"  # an output, from the container or from us
    DELAY = "delay"  # failed, and the server tries again after a while
    REQUEUE = "requeue"  # the while is over, or the client asks for another attempt


_TRANSITIONS: dict[tuple[InputState, InputEvent], InputState] = {
    (InputState.QUEUED, InputEvent.LEASE): InputState.LEASED,
    (InputState.QUEUED, InputEvent.FINISH): InputState.DONE,
    (InputState.LEASED, InputEvent.GIVE_BACK): InputState.QUEUED,
    (InputState.LEASED, InputEvent.FINISH): InputState.DONE,
    (InputState.LEASED, InputEvent.DELAY): InputState.DELAYED,
    (InputState.DELAYED, InputEvent.REQUEUE): InputState.QUEUED,
    (InputState.DELAYED, InputEvent.FINISH): InputState.DONE,
    (InputState.DONE, InputEvent.REQUEUE): InputState.QUEUED,
}


def next_state(state: InputState, event: InputEvent) -> InputState | None:
    """Where the event leads, or None where it means nothing (somebody else was faster)."""
    return _TRANSITIONS.get((state, event))
