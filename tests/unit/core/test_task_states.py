import pytest

from pilotlight.core.tasks import TaskEvent, TaskState, next_state

S, R, D, P, F = TaskState.STARTING, TaskState.READY, TaskState.DRAINING, TaskState.STOPPING, TaskState.FINISHED

# Every state with every event; None: it changes nothing.
EXPECTED = {
    S: {"ASK": R, "DRAIN": P, "STOP": P, "EXIT": F},
    R: {"ASK": None, "DRAIN": D, "STOP": P, "EXIT": F},
    D: {"ASK": None, "DRAIN": None, "STOP": P, "EXIT": F},
    P: {"ASK": None, "DRAIN": None, "STOP": None, "EXIT": F},
    F: {"ASK": None, "DRAIN": None, "STOP": None, "EXIT": None},
}


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("event", TaskEvent)
def test_every_pair(state: TaskState, event: TaskEvent) -> None:
    assert next_state(state, event) is EXPECTED[state][event.name]
