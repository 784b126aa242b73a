"""How long the supervisor waits before it starts a process again."""

from pilotlight.supervisor.child import restart_delay_s


def test_at_once_then_doubling_to_a_limit() -> None:
    delays = [restart_delay_s(deaths) for deaths in range(1, 10)]
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
