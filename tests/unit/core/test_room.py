"""Who ends for whom."""

from pilotlight.core.placement import Need, NodeView
from pilotlight.core.room import Occupant, to_end_for_room

NEED = Need(125, 1_000)


def node(name: str = "a", used_mib: int = 4_000, containers: int = 4) -> NodeView:
    return NodeView(name, 4_000, 4_096, used_memory_mib=used_mib, used_milli_cpu=500, containers=containers, max_containers=10)


def there(task_id: str, idle_s: float | None, on: str = "a", mib: int = 500, *, leaving: bool = False) -> Occupant:
    return Occupant(task_id, on, 125, mib, idle_s, leaving)


def test_those_that_were_idle_longest_end_and_no_more_than_needed() -> None:
    occupants = [there("busy", None), there("short", 1.0), there("long", 9.0), there("middle", 5.0)]
    assert to_end_for_room(NEED, [node()], occupants) == ["long", "middle"]


def test_nobody_ends_where_somebody_leaves_already_or_it_would_not_help() -> None:
    assert to_end_for_room(NEED, [node()], [there("leaves", None, mib=1_000, leaving=True), there("idle", 9.0)]) == []
    assert to_end_for_room(NEED, [node()], [there("idle", 9.0)]) == []
    assert to_end_for_room(Need(125, 5_000), [node()], [there("idle", 9.0, mib=4_000)]) == []
    drained = node()
    drained.cordoned = True
    assert to_end_for_room(NEED, [drained], [there("idle", 9.0, mib=2_000)]) == []


def test_it_happens_where_the_fewest_have_to_end() -> None:
    occupants = [there("x", 9.0), there("y", 9.0), there("z", 1.0, on="b", mib=1_000)]
    assert to_end_for_room(NEED, [node(), node("b")], occupants) == ["z"]


def test_a_node_may_be_short_of_places_alone() -> None:
    assert to_end_for_room(NEED, [node(used_mib=0, containers=10)], [there("idle", 2.0)]) == ["idle"]
