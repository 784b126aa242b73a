"""Whatever takes bytes of strangers, for a moment each: the same targets as those of `make fuzz`, which has more patience."""

from datetime import timedelta

import pytest
from fuzz.targets import SEEDS, TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OF_PROCESSES = {"archives", "layers", "owners"}  # these start programs, or make files: tried with their seeds here
KNOWN = [(name, number) for name, seeds in SEEDS.items() for number in range(len(seeds))]


@pytest.mark.parametrize(("name", "number"), KNOWN)
def test_seeds(name: str, number: int) -> None:
    TARGETS[name](SEEDS[name][number])


def mixed(name: str) -> st.SearchStrategy[bytes]:
    """Pieces of the seeds, and anything between them."""
    seeds = SEEDS[name]
    pieces = st.one_of(
        st.sampled_from(seeds), st.binary(max_size=12), st.sampled_from(seeds).map(lambda seed: seed[len(seed) // 2 :])
    )
    return st.lists(pieces, max_size=4).map(b"".join)


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in OF_PROCESSES])
def test_nothing_but_refusals(name: str) -> None:
    @settings(max_examples=60, deadline=timedelta(seconds=20), suppress_health_check=list(HealthCheck), derandomize=True)
    @given(mixed(name))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()
