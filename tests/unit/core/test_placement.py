from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.gpus import GpuWish
from pilotlight.core.placement import CPU_OVERCOMMIT, Need, NodeView, Placed, Unplaced, place


def node(name: str = "a", **changes: Any) -> NodeView:
    fields: dict[str, Any] = {
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


def gpu_node(name: str, free: int | None = None, **gpus: int) -> NodeView:
    kinds = {kind.replace("_", "-"): count for kind, count in gpus.items()}
    return node(name, gpus=kinds, free_gpus=kinds if free is None else dict.fromkeys(kinds, free))


def gpu(kind: str, count: int = 1) -> Need:
    return Need(125, 128, GpuWish(kind, count))


def test_a_gpu_goes_where_it_leaves_the_fewest_over() -> None:
    nodes = [gpu_node("roomy", H100=8), gpu_node("tight", H100=8, free=2), gpu_node("other", T4=2)]
    assert place(nodes, gpu("H100", 2)) == Placed("tight", "H100")
    assert place(nodes, gpu("H100", 4)) == Placed("roomy", "H100")


def test_containers_without_a_gpu_leave_the_nodes_with_gpus_alone() -> None:
    assert place([gpu_node("gpus", H100=8), node("plain", used_memory_mib=8_000)], SMALL) == Placed("plain")
    assert place([gpu_node("gpus", H100=8)], SMALL) == Placed("gpus")


def test_a_kind_may_be_served_by_a_better_one_unless_it_must_not() -> None:
    nodes = [gpu_node("better", H200=8), gpu_node("same", H100=8, free=1)]
    assert place(nodes, gpu("H100")) == Placed("same", "H100")
    assert place(nodes, gpu("H100", 2)) == Placed("better", "H200")
    unplaced = place(nodes, gpu("H100!", 2))
    assert isinstance(unplaced, Unplaced) and not unplaced.never and "7 of 8 GPUs (H100) are busy" in unplaced.why
    assert place([gpu_node("a", A100_80GB=1)], gpu("A100")) == Placed("a", "A100-80GB")


def test_any_takes_the_least_powerful() -> None:
    assert place([gpu_node("a", H100=1, T4=1)], gpu("ANY")) == Placed("a", "T4")


def test_a_list_is_tried_in_order() -> None:
    nodes = [gpu_node("a", H100=1, free=0), gpu_node("b", A10G=2)]
    assert place(nodes, [gpu("H100"), gpu("A10G")]) == Placed("b", "A10G", 1)


def test_a_kind_that_is_not_there_is_told_with_those_that_are() -> None:
    unplaced = place([gpu_node("a", A10G=2)], [gpu("H100"), gpu("A100")])
    assert isinstance(unplaced, Unplaced) and unplaced.never
    assert unplaced.why == "needs 1×H100 or 1×A100, this platform has 2×A10G"
    nowhere = place([node()], gpu("H100"))
    assert isinstance(nowhere, Unplaced) and nowhere.never and "no GPU" in nowhere.why


def test_more_than_one_node_has_can_never_fit() -> None:
    unplaced = place([gpu_node("a", H100=4), gpu_node("b", H100=4)], gpu("H100", 8))
    assert isinstance(unplaced, Unplaced) and unplaced.never and "8×H100" in unplaced.why


def test_labels_choose_nodes_and_are_named_where_none_has_them() -> None:
    there = Need(125, 128, labels={"region": frozenset({"us-east"})})
    assert place([node("a"), node("b", labels={"region": "us-east"})], there) == Placed("b")
    assert place([node("a", labels={"region": "us-east-1"}), node("b")], there) == Placed("a")
    assert place([node("a", labels={"region": "eu"}), node("b")], there) == Placed("b")  # of b nobody has said where it is
    unplaced = place([node("a", labels={"region": "eu"})], there)
    assert isinstance(unplaced, Unplaced) and unplaced.never and "region=us-east" in unplaced.why and "eu" in unplaced.why


def test_a_node_that_is_drained_takes_nothing_new() -> None:
    assert place([node("a", cordoned=True), node("b", used_memory_mib=8_000)], SMALL) == Placed("b")
    unplaced = place([node("a", cordoned=True)], SMALL)
    assert isinstance(unplaced, Unplaced) and "drained" in unplaced.why
