"""Kinds of GPUs, as programs and drivers name them."""

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.core.gpus import GpuWish, kind_of, parse_inventory, wish


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
    for wrong in ("A10G:two", ":2", "A10G:0"):
        with pytest.raises(InvalidInput, match="KIND:NUMBER"):
            parse_inventory(wrong)
