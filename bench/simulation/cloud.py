"""The virtual cloud: functions, their containers on nodes, and a clock that jumps from event to event."""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from bench.simulation.policies import Container, Function, Policy
from bench.simulation.workload import Arrival
from pilotlight.core.placement import Need, NodeView, Placed, Unplaced, place

NEED = Need(125, 128)
SERVICE_WEIGHT = 0.2  # of the latest input in the mean, as in the server
SAMPLE_EVERY_S = 60.0
LOOKED_AT = 8  # nodes that are asked first


@dataclass(slots=True)
class Result:
    """What a day brought. Times in seconds."""

    name: str
    inputs: int = 0
    cold: int = 0  # inputs that waited for a container to start
    starts: int = 0
    container_s: float = 0.0
    busy_s: float = 0.0
    waits: list[float] = field(default_factory=list)
    containers_over_time: list[tuple[float, int]] = field(default_factory=list)
    unplaced: int = 0


class Nodes:
    """Machines of one size, whose containers are of one size too.

    Those with the fewest containers are then those with the most free memory, which `place` prefers: it is asked about a few of
    these alone, and about all only where that finds nothing. What it says is the same, to which of several equal nodes.
    """

    def __init__(self, count: int) -> None:
        names = [f"node-{number}" for number in range(count)]
        self.views = {name: NodeView(name, 16_000, 65_536, max_starting=32) for name in names}
        self._with = defaultdict[int, dict[str, NodeView]](dict, {0: dict(self.views)})  # by number of containers
        self._fewest = 0

    def take(self) -> Placed | Unplaced:
        """Room for one more container."""
        while not self._with[self._fewest]:
            self._fewest += 1
        placed = place(islice(self._with[self._fewest].values(), LOOKED_AT), NEED)
        if not isinstance(placed, Placed):
            placed = place(self.views.values(), NEED)
        if isinstance(placed, Placed):
            self.views[placed.node_id].starting += 1
            self._change(placed.node_id, 1)
        return placed

    def started(self, name: str) -> None:
        """One that was starting runs."""
        self.views[name].starting -= 1

    def give_back(self, name: str) -> None:
        """What one container had."""
        self._change(name, -1)

    def _change(self, name: str, by: int) -> None:
        node = self.views[name]
        del self._with[node.containers][name]
        node.containers += by
        node.used_milli_cpu += by * NEED.milli_cpu
        node.used_memory_mib += by * NEED.memory_mib
        self._with[node.containers][name] = node
        self._fewest = min(self._fewest, node.containers)


class Cloud:
    """Runs a workload under a policy. Each node takes containers as `core/placement.py` says."""

    def __init__(self, policy: Policy, functions: int, nodes: int, startup_s: float) -> None:
        self._policy = policy
        self._startup_s = startup_s
        self._functions = [Function(number) for number in range(functions)]
        self._nodes = Nodes(nodes)
        self._events: list[tuple[float, int, str, int, int]] = []  # (at, order, kind, function, container)
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._running = 0
        self.result = Result(policy.name)

    def run(self, arrivals: Iterable[Arrival], until: float) -> Result:
        """Everything that arrives, to its end."""
        coming = iter(arrivals)
        arrival = next(coming, None)
        sample_at = 0.0
        while arrival is not None or self._events:
            if arrival is not None and (not self._events or arrival.at <= self._events[0][0]):
                now, function = arrival.at, self._functions[arrival.function]
                function.waiting.append((now, arrival.service_s))
                arrival = next(coming, None)
            else:
                now, _, kind, number, container = heapq.heappop(self._events)
                if now > until and arrival is None and kind == "look":
                    continue
                function = self._functions[number]
                if not self._happened(function, kind, container, now):
                    continue
            while sample_at <= now:
                self.result.containers_over_time.append((sample_at, self._running))
                sample_at += SAMPLE_EVERY_S
            self._serve(function, now)
            self._obey(function, now)
        for function in self._functions:
            for container in list(function.containers.values()):
                self._end(function, container, until)
        return self.result

    def _happened(self, function: Function, kind: str, number: int, now: float) -> bool:
        if kind == "look":
            if function.look_at > now:
                return False  # it has been looked at since, and wants another time
            function.look_at = float("inf")
            return True
        container = function.containers[number]
        if kind == "ready":
            container.ready, container.idle_since = True, now
            self._nodes.started(container.node)
        else:
            container.busy, container.idle_since = False, now
        return True

    def _serve(self, function: Function, now: float) -> None:
        free = [container for container in function.containers.values() if container.ready and not container.busy]
        for container in free:
            if not function.waiting:
                return
            arrived, service_s = function.waiting.popleft()
            container.busy = True
            known = function.mean_service_s
            function.mean_service_s = service_s if known is None else known + SERVICE_WEIGHT * (service_s - known)
            self.result.inputs += 1
            self.result.busy_s += service_s
            self.result.waits.append(now - arrived)
            self.result.cold += container.began >= arrived
            self._later(now + service_s, "done", function, container.number)

    def _obey(self, function: Function, now: float) -> None:
        wish = self._policy.decide(function, now)
        for number in wish.end:
            self._end(function, function.containers[number], now)
        for _ in range(wish.start):
            if not self._start(function, now):
                break
        if wish.look_at != function.look_at and wish.look_at != float("inf"):
            function.look_at = wish.look_at
            self._later(wish.look_at, "look", function, 0)

    def _start(self, function: Function, now: float) -> bool:
        placed = self._nodes.take()
        if not isinstance(placed, Placed):
            self.result.unplaced += 1
            function.look_at = now + 0.1
            self._later(function.look_at, "look", function, 0)
            return False
        container = Container(next(self._numbers), now, placed.node_id)
        function.containers[container.number] = container
        self.result.starts += 1
        self._running += 1
        self._later(now + self._startup_s, "ready", function, container.number)
        return True

    def _end(self, function: Function, container: Container, now: float) -> None:
        del function.containers[container.number]
        self._nodes.give_back(container.node)
        self._running -= 1
        self.result.container_s += max(0.0, now - container.began)

    def _later(self, at: float, kind: str, function: Function, container: int) -> None:
        heapq.heappush(self._events, (at, next(self._order), kind, function.number, container))
