"""What happens when: a pure function of the seed.

A kill ends processes. All else lasts a while, and other events may fall into that while: a server that is killed while the disk is
full is one of the cases that people have.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is done to the platform."""

    KILL_SERVER = "kill server"
    KILL_EDGE = "kill edge"
    KILL_NODE = "kill node"
    KILL_CONTAINER = "kill container"  # all processes of one
    KILL_ALL = "kill all"  # every process at once, then `up`
    CUT_POWER = "cut power"  # the same, and what was not synced is gone
    FREEZE_SERVER = "freeze server"
    FREEZE_EDGE = "freeze edge"
    FREEZE_NODE = "freeze node"
    CUT_STREAM = "cut stream"  # of the node
    FILL_DISK = "fill disk"
    STALL_DISK = "stall disk"
    JUMP_CLOCK = "jump clock"


WEIGHTS: Mapping[Kind, int] = {
    Kind.KILL_SERVER: 22,
    Kind.KILL_EDGE: 10,
    Kind.KILL_NODE: 13,
    Kind.KILL_CONTAINER: 20,
    Kind.KILL_ALL: 4,
    Kind.CUT_POWER: 4,
    Kind.FREEZE_SERVER: 5,
    Kind.FREEZE_EDGE: 3,
    Kind.FREEZE_NODE: 5,
    Kind.CUT_STREAM: 5,
    Kind.FILL_DISK: 3,
    Kind.STALL_DISK: 3,
    Kind.JUMP_CLOCK: 3,
}
KILLS = frozenset({Kind.KILL_SERVER, Kind.KILL_EDGE, Kind.KILL_NODE, Kind.KILL_CONTAINER, Kind.KILL_ALL, Kind.CUT_POWER})
OF_A_DISK = frozenset({Kind.CUT_POWER, Kind.FILL_DISK, Kind.STALL_DISK})  # need a file system of their own
OF_A_CLOCK = frozenset({Kind.JUMP_CLOCK})  # need a platform that was started with one
OF_EVERYTHING = frozenset({Kind.KILL_ALL, Kind.CUT_POWER})
LONGEST_S: Mapping[Kind, float] = {  # how long it lasts at most; a node that is frozen for over 10 s is given up
    Kind.FREEZE_SERVER: 6.0,
    Kind.FREEZE_EDGE: 4.0,
    Kind.FREEZE_NODE: 14.0,
    Kind.FILL_DISK: 8.0,
    Kind.STALL_DISK: 5.0,
    Kind.JUMP_CLOCK: 20.0,
}
JUMPS_S = (-86_400.0, -3_600.0, -30.0, 30.0, 3_600.0, 86_400.0)
MEAN_GAP_S, SHORTEST_GAP_S = 3.5, 0.4
AFTER_EVERYTHING_S = 15.0  # until the next event, so that the platform is up for a while


@dataclass(frozen=True)
class Event:
    """One thing that is done. `lasts_s` is 0 for a kill; `choice`, from 0 to 1, picks one container of those that run."""

    number: int
    at_s: float  # since the start
    kind: Kind
    lasts_s: float = 0.0
    choice: float = 0.0
    jump_s: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        jump = f" by {self.jump_s:+.0f} s" if self.jump_s else ""
        return f"{self.number:4} {self.at_s:8.1f} s  {self.kind}{jump}{lasts}"


def draw(seed: int, kills: int, kinds: frozenset[Kind] = frozenset(Kind), mean_gap_s: float = MEAN_GAP_S) -> Iterator[Event]:
    """Events until so many kills have been."""
    chance = random.Random(seed)
    population = [kind for kind in Kind if kind in kinds]
    weights = [WEIGHTS[kind] for kind in population]
    at_s, number, killed = 0.0, 0, 0
    while killed < kills:
        kind = chance.choices(population, weights)[0]
        at_s += SHORTEST_GAP_S + chance.expovariate(1 / mean_gap_s)
        lasts_s = round(chance.uniform(0.3, 1.0) * LONGEST_S[kind], 1) if kind in LONGEST_S else 0.0
        jump_s = chance.choice(JUMPS_S) if kind in OF_A_CLOCK else 0.0
        number += 1
        yield Event(number, round(at_s, 1), kind, lasts_s, chance.random(), jump_s)
        killed += kind in KILLS
        if kind in OF_EVERYTHING:
            at_s += AFTER_EVERYTHING_S
