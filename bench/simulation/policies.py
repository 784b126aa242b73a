"""Who decides how many containers a function has: ours, and two that others have published.

Each policy is asked when something happens to a function. It says how many more containers it is to have, which idle ones go,
and when it wants to be asked again.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from pilotlight.core import scaling


@dataclass(slots=True, eq=False)
class Container:
    """One container of a function, which runs one input at a time."""

    number: int
    began: float
    node: str
    ready: bool = False
    busy: bool = False
    idle_since: float = 0.0


@dataclass(slots=True, eq=False)
class Function:
    """One function in the simulation."""

    number: int
    waiting: deque[tuple[float, float]] = field(default_factory=deque)  # (arrived at, service time)
    containers: dict[int, Container] = field(default_factory=dict)
    mean_service_s: float | None = None
    look_at: float = math.inf  # when its policy wants to be asked again
    state: object = None  # the policy's own


@dataclass(frozen=True, slots=True)
class Wish:
    """What a policy wants now."""

    start: int = 0
    end: Sequence[int] = ()
    look_at: float = math.inf


class Policy(Protocol):
    """Sees a function whenever something happens to it."""

    name: str

    def decide(self, function: Function, now: float) -> Wish: ...


class Ours:
    """`core/scaling.py`, as the server calls it."""

    def __init__(self, startup_s: float, window_s: float = scaling.DEFAULT_SCALEDOWN_WINDOW_S) -> None:
        self.name = f"Pilotlight ({window_s:g} s window)"
        self._startup_s = startup_s
        self._window_s = window_s

    def decide(self, function: Function, now: float) -> Wish:
        tasks = tuple(
            scaling.TaskView(
                str(container.number),
                starting=not container.ready,
                held_inputs=int(container.busy),
                idle_s=0.0 if container.busy or not container.ready else now - container.idle_since,
            )
            for container in function.containers.values()
        )
        plan = scaling.plan(
            scaling.PoolView(
                queued=len(function.waiting),
                inputs_per_container=1,
                tasks=tasks,
                scaledown_window_s=self._window_s,
                service_s=function.mean_service_s,
                startup_s=self._startup_s,
            )
        )
        look_at = now + max(0.001, plan.look_again_s) if plan.look_again_s is not None else math.inf
        return Wish(plan.start, [int(number) for number in plan.drain], look_at)


class KeepAlive:
    """One container per input that finds none free, kept for a fixed time after its last input."""

    def __init__(self, keep_s: float = 600.0) -> None:
        self.name = f"fixed keep-alive ({keep_s / 60:g} min)"
        self._keep_s = keep_s

    def decide(self, function: Function, now: float) -> Wish:
        starting = sum(not container.ready for container in function.containers.values())
        idle = [container for container in function.containers.values() if container.ready and not container.busy]
        over = [container.number for container in idle if now >= container.idle_since + self._keep_s]
        rest = [container.idle_since + self._keep_s for container in idle if container.number not in over]
        return Wish(max(0, len(function.waiting) - starting), over, min(rest, default=math.inf))


@dataclass(slots=True)
class _Knative:
    samples: deque[float] = field(default_factory=deque)  # the concurrency of each tick of the stable window
    total: float = 0.0  # of the samples
    traffic: int = 0  # how many of them are more than nothing
    changed_at: float = 0.0
    concurrency: int = 0
    area: float = 0.0  # of concurrency × time since the last tick
    tick_at: float = 0.0
    panic_until: float = 0.0
    panic_most: int = 0
    zero_since: float = math.inf

    def add(self, concurrency: float, most: int) -> None:
        """One more sample, for the oldest if there are `most`. Their sum is kept: a day has a hundred million ticks."""
        self.samples.append(concurrency)
        self.total += concurrency
        self.traffic += concurrency > 0
        if len(self.samples) > most:
            oldest = self.samples.popleft()
            self.total -= oldest
            self.traffic -= oldest > 0
        if not self.traffic:
            self.total = 0.0  # what is left then are errors of rounding


class Knative:
    """Knative's concurrency autoscaler with its defaults, for containers that take one input at a time.

    Every 2 s: as many as the concurrency of the last 60 s asks for at 70 % utilisation; in panic (the last 6 s ask for twice what
    there is) the larger, and no fewer for 60 s; to zero after 60 s without traffic and 30 s of grace. The first request after that
    starts one at once.
    """

    TICK_S, STABLE_S, PANIC_S, GRACE_S, TARGET, THRESHOLD = 2.0, 60.0, 6.0, 30.0, 0.7, 2.0

    def __init__(self) -> None:
        self.name = "Knative's autoscaler"

    def decide(self, function: Function, now: float) -> Wish:
        if function.state is None:
            function.state = _Knative(changed_at=now, tick_at=now + self.TICK_S)
        state = function.state
        assert isinstance(state, _Knative)
        running = sum(container.busy for container in function.containers.values()) + len(function.waiting)
        state.area += state.concurrency * (now - state.changed_at)
        state.changed_at, state.concurrency = now, running
        have = len(function.containers)
        if now < state.tick_at:
            start = 1 if running and not have else 0  # the activator wakes what is at zero
            return Wish(start, (), state.tick_at)
        elapsed = self.TICK_S + (now - state.tick_at)
        state.add(state.area / elapsed, int(self.STABLE_S / self.TICK_S))
        state.area, state.tick_at = 0.0, now + self.TICK_S
        wanted = self._wanted(state, have, now)
        if wanted == 0 and have and now - state.zero_since < self.GRACE_S:
            wanted = have
        idle = [number for number, container in function.containers.items() if container.ready and not container.busy]
        leaving = idle[: max(0, have - wanted)]
        asleep = not running and not (have - len(leaving)) and not state.traffic
        if asleep:
            function.state = None
        return Wish(max(0, wanted - have), leaving, math.inf if asleep else state.tick_at)

    def _wanted(self, state: _Knative, have: int, now: float) -> int:
        stable = state.total / (self.STABLE_S / self.TICK_S)
        recent = list(islice(reversed(state.samples), int(self.PANIC_S / self.TICK_S)))
        stable_wanted = math.ceil(round(stable / self.TARGET, 9))
        panic_wanted = math.ceil(round(sum(recent) / len(recent) / self.TARGET, 9))
        state.zero_since = min(state.zero_since, now) if not stable_wanted else math.inf
        if have and panic_wanted >= self.THRESHOLD * have:
            state.panic_until = now + self.STABLE_S
        if now < state.panic_until:
            state.panic_most = max(state.panic_most, panic_wanted, stable_wanted)
            return state.panic_most
        state.panic_most = 0
        return stable_wanted
