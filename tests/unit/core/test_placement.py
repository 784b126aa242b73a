from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.placement import CPU_OVERCOMMIT, Need, NodeView, Placed, Unplaced, place


def node(name: str = "a", **changes: int) -> NodeView:
    fields = {
        "milli_cpu": 4_000,
        "memory_mib": 8_192,
        "used_milli_cpu": 0,
        "used_memory_mib": 0,
        "containers": 0,
        "max_containers": 100,
        "starting": 0,
        "max_starting": 4,
    }
    return NodeView(name, **(fields | changes))


SMALL = Need(125, 128)


def test_without_a_node_it_says_so() -> None:
    unplaced = place([], SMALL)
    assert isinstance(unplaced, Unplaced) and "no node" in unplaced.why and not unplaced.never


def test_the_node_with_the_most_free_memory_is_chosen() -> None:
    assert place([node("a", used_memory_mib=4_096), node("b", used_memory_mib=1_024)], SMALL) == Placed("b")


def test_what_fits_nowhere_ever_names_the_largest_node() -> None:
    unplaced = place([node(memory_mib=1_024), node(memory_mib=2_048)], Need(125, 4_096))
    assert isinstance(unplaced, Unplaced) and unplaced.never and "2048 MiB" in unplaced.why


def test_what_does_not_fit_now_says_how_much_is_free() -> None:
    unplaced = place([node(used_memory_mib=8_000)], Need(125, 1_024))
    assert isinstance(unplaced, Unplaced) and not unplaced.never and "192 MiB free" in unplaced.why


def test_a_node_that_starts_many_is_left_alone_for_a_moment() -> None:
    unplaced = place([node(starting=4)], SMALL)
    assert isinstance(unplaced, Unplaced) and unplaced.momentary
    assert place([node("busy", starting=4), node("calm", used_memory_mib=8_000)], SMALL) == Placed("calm")


_NODES = st.builds(
    node,
    st.sampled_from("abc"),
    milli_cpu=st.integers(0, 8_000),
    memory_mib=st.integers(0, 16_384),
    used_milli_cpu=st.integers(0, 64_000),
    used_memory_mib=st.integers(0, 16_384),
    containers=st.integers(0, 3),
    max_containers=st.integers(0, 3),
    starting=st.integers(0, 5),
)


@given(nodes=st.lists(_NODES, max_size=4), milli_cpu=st.integers(1, 8_000), memory_mib=st.integers(1, 16_384))
def test_no_node_is_given_more_than_it_has(nodes: list[NodeView], milli_cpu: int, memory_mib: int) -> None:
    placed = place(nodes, Need(milli_cpu, memory_mib))
    if isinstance(placed, Placed):
        assert any(
            candidate.node_id == placed.node_id
            and candidate.used_memory_mib + memory_mib <= candidate.memory_mib
            and candidate.used_milli_cpu + milli_cpu <= candidate.milli_cpu * CPU_OVERCOMMIT
            and candidate.containers < candidate.max_containers
            and candidate.starting < candidate.max_starting
            for candidate in nodes
        )
    else:
        assert placed.why
