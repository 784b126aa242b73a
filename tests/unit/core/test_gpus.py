"""Kinds of GPUs, as programs and drivers name them."""

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.core.gpus import GpuWish, Holder, kind_of, parse_inventory, parse_shares, to_end_for, wish


@pytest.mark.parametrize(
    ("product", "memory_mib", "kind"),
    [
        ("Tesla T4", 15_360, "T4"),
        ("NVIDIA L4", 23_034, "L4"),
        ("NVIDIA A10G", 23_028, "A10G"),
        ("NVIDIA A10", 23_028, "A10G"),
        ("NVIDIA L40S", 46_068, "L40S"),
        ("NVIDIA A100-SXM4-40GB", 40_960, "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", 81_920, "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", 81_920, "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", 81_559, "H100"),
        ("NVIDIA H100 PCIe", 81_559, "H100"),
        ("NVIDIA H200", 143_771, "H200"),
        ("NVIDIA B200", 183_359, "B200"),
        ("NVIDIA GeForce RTX 4090", 24_564, "RTX-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97_887, "RTX-PRO-6000"),
        ("NVIDIA RTX 6000 Ada Generation", 49_140, "RTX-6000"),
        ("Quadro RTX 5000", 16_384, "RTX-5000"),
    ],
)
def test_products_get_upstreams_words(product: str, memory_mib: int, kind: str) -> None:
    assert kind_of(product, memory_mib) == kind


def test_what_is_asked_for_is_read_in_any_case() -> None:
    assert wish("h100", 8) == GpuWish("H100", 8)
    assert wish("", 1) == GpuWish("ANY", 1)
    assert wish("", 0) is None


@pytest.mark.parametrize("count", [0, 9, 100])
def test_a_number_that_nobody_can_give_is_refused(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"H100:{count}"):
        wish("H100", count)


def test_which_kinds_serve_a_wish() -> None:
    there = ["H200", "H100", "T4", "RTX-4090", "A100-80GB"]
    assert GpuWish("H100", 1).kinds(there) == ("H100", "H200")
    assert GpuWish("H100!", 1).kinds(there) == ("H100",)
    assert GpuWish("A100", 1).kinds(there) == ("A100-80GB",)
    assert GpuWish("RTX-4090", 1).kinds(there) == ("RTX-4090",)
    assert GpuWish("ANY", 1).kinds(there) == ("T4", "A100-80GB", "H100", "H200", "RTX-4090")
    assert GpuWish("B200", 1).kinds(there) == ()


def test_an_inventory_is_read_as_operators_write_it() -> None:
    assert parse_inventory("a10g:2, H100") == {"A10G": 2, "H100": 1}
    assert parse_inventory("") == {}
    assert parse_inventory("a10:2,A100:1,A10G") == {"A10G": 3, "A100-40GB": 1}  # what `gpu="A10"` and `gpu="A100"` are served by
    for wrong in ("A10G:two", ":2", "A10G:0", "any:2", "H100!:1"):
        with pytest.raises(InvalidInput, match="KIND:NUMBER"):
            parse_inventory(wrong)


def test_an_inventory_of_nothing_is_said_by_a_word() -> None:
    assert parse_inventory("none") == {}


def test_shares_are_read_as_operators_write_them() -> None:
    assert parse_shares("a10=4, L4=2") == {"A10G": 4, "L4": 2}
    for wrong in ("A10G:4", "=2", "A10G=0", "A10G=65", "A10G=many"):
        with pytest.raises(InvalidInput, match="KIND=NUMBER"):
            parse_shares(wrong)


def holder(name: str, idle_s: float | None, count: int = 1, kind: str = "L4", node: str = "n", leaving: bool = False) -> Holder:
    return Holder(name, node, kind, count, idle_s, leaving)


L4 = [GpuWish("L4", 1)]


def test_the_container_that_was_idle_longest_makes_room() -> None:
    holders = [holder("young", 1.0), holder("old", 9.0), holder("busy", None), holder("other", 20.0, kind="T4")]
    assert to_end_for(L4, {"n": {"L4": 0, "T4": 0}}, holders) == ["old"]
    assert to_end_for([GpuWish("L4", 2)], {"n": {"L4": 0, "T4": 0}}, holders) == ["old", "young"]


def test_nobody_ends_where_it_would_not_help_or_is_not_needed() -> None:
    assert to_end_for([GpuWish("L4", 3)], {"n": {"L4": 0}}, [holder("a", 1.0), holder("b", 2.0)]) == []
    assert to_end_for(L4, {"n": {"L4": 1}}, [holder("a", 1.0)]) == []
    assert to_end_for(L4, {"n": {"L4": 0}}, [holder("a", 1.0), holder("leaving", None, leaving=True)]) == []
    assert to_end_for(L4, {"n": {"L4": 0}}, [holder("busy", None)]) == []


def test_what_is_wanted_more_is_made_room_for_first_with_as_few_ends_as_will_do() -> None:
    holders = [holder("a", 5.0), holder("b", 5.0), holder("both", 1.0, count=2, node="m"), holder("t4", 50.0, kind="T4")]
    free = {"n": {"L4": 0, "T4": 0}, "m": {"L4": 0}}
    assert to_end_for([GpuWish("L4", 2), GpuWish("T4", 1)], free, holders) == ["both"]
    assert to_end_for([GpuWish("H100", 1), GpuWish("T4", 1)], free, holders) == ["t4"]
