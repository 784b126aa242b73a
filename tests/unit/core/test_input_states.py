import pytest

from pilotlight.core.inputs import InputEvent, InputState, next_state

Q, L, D, E = InputState.QUEUED, InputState.LEASED, InputState.DELAYED, InputState.DONE

# Every state with every event; None: it changes nothing.
EXPECTED = {
    Q: {"LEASE": L, "GIVE_BACK": None, "FINISH": E, "DELAY": None, "REQUEUE": None},
    L: {"LEASE": None, "GIVE_BACK": Q, "FINISH": E, "DELAY": D, "REQUEUE": None},
    D: {"LEASE": None, "GIVE_BACK": None, "FINISH": E, "DELAY": None, "REQUEUE": Q},
    E: {"LEASE": None, "GIVE_BACK": None, "FINISH": None, "DELAY": None, "REQUEUE": Q},
}


@pytest.mark.parametrize("state", InputState)
@pytest.mark.parametrize("event", InputEvent)
def test_every_pair(state: InputState, event: InputEvent) -> None:
    assert next_state(state, event) is EXPECTED[state][event.name]
