"""The simulated cloud loses nothing, and its policies do what they are for."""

import random

import pytest

from bench.simulation.cloud import NEED, Cloud, Nodes
from bench.simulation.policies import KeepAlive, Knative, Ours, Policy
from bench.simulation.workload import arrivals
from pilotlight.core.placement import Placed, place

FUNCTIONS, SECONDS, STARTUP_S = 40, 3_600.0, 0.7


@pytest.mark.parametrize("policy", [Ours(STARTUP_S), Knative(), KeepAlive()], ids=lambda policy: type(policy).__name__)
def test_each_input_runs_once_and_each_container_ends(policy: Policy) -> None:
    workload = list(arrivals(FUNCTIONS, SECONDS, 5_000, seed=7))
    result = Cloud(policy, FUNCTIONS, nodes=5, startup_s=STARTUP_S).run(workload, SECONDS)
    assert result.inputs == len(workload) > 400
    assert result.busy_s == pytest.approx(sum(arrival.service_s for arrival in workload))
    assert result.starts > 0 and result.busy_s <= result.container_s
    assert min(result.waits) >= 0
    assert result.cold <= sum(wait > 0 for wait in result.waits)


def test_the_same_seed_makes_the_same_day() -> None:
    assert list(arrivals(5, SECONDS, 5_000, seed=3)) == list(arrivals(5, SECONDS, 5_000, seed=3))


def test_arrivals_come_in_order() -> None:
    times = [arrival.at for arrival in arrivals(20, SECONDS, 5_000, seed=1)]
    assert times == sorted(times)


def test_few_nodes_are_asked_and_the_answer_is_that_of_all() -> None:
    nodes, chance, running = Nodes(50), random.Random(1), list[str]()
    for _ in range(4_000):
        if running and chance.random() < 0.4:
            nodes.give_back(running.pop(chance.randrange(len(running))))
            continue
        of_all = place(nodes.views.values(), NEED)
        most_free = nodes.views[of_all.node_id].used_memory_mib if isinstance(of_all, Placed) else None
        placed = nodes.take()
        assert isinstance(placed, Placed) == isinstance(of_all, Placed)
        if isinstance(placed, Placed):
            assert nodes.views[placed.node_id].used_memory_mib - NEED.memory_mib == most_free
            if chance.random() < 0.9:
                nodes.started(placed.node_id)
            running.append(placed.node_id)
    assert len(running) == sum(node.containers for node in nodes.views.values())
