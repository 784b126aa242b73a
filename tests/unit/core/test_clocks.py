"""Clocks that somebody sets."""

from pilotlight.core.clocks import SteadyClock


class Machine:
    def __init__(self) -> None:
        self.wall_s, self.elapsed_s = 1_000_000.0, 50.0

    def wall(self) -> float:
        return self.wall_s

    def elapsed(self) -> float:
        return self.elapsed_s

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.elapsed_s += seconds


def test_time_passes_and_does_not_jump() -> None:
    machine = Machine()
    clock = SteadyClock(machine.wall, machine.elapsed)
    machine.passes(10)
    assert clock() == clock.careful() == 1_000_010
    machine.wall_s += 86_400
    assert clock() == clock.careful() == 1_000_010
    machine.wall_s -= 2 * 86_400
    machine.passes(5)
    assert clock() == 1_000_015
    assert clock.careful() == 1_000_015 - 86_400
