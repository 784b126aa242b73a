"""Which settings of an autoscaler may be asked for."""

import pytest

from pilotlight.core.autoscaling import LONGEST_SCALEDOWN_S, MAX_CONTAINERS_ASKED, SHORTEST_SCALEDOWN_S, Bounds, check
from pilotlight.core.errors import InvalidInput


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(0, 0, 0, None),
        Bounds(5, 0, 0, None),  # no limit of its own
        Bounds(5, 5, 5, SHORTEST_SCALEDOWN_S),
        Bounds(0, MAX_CONTAINERS_ASKED, 0, LONGEST_SCALEDOWN_S),
    ],
)
def test_what_may_be_asked_for(bounds: Bounds) -> None:
    check("f", bounds)


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        (Bounds(6, 5, 0, None), r"min_containers=6 with max_containers=5"),
        (Bounds(MAX_CONTAINERS_ASKED + 1, 0, 0, None), r"at most 10,000"),
        (Bounds(0, 0, MAX_CONTAINERS_ASKED + 1, None), r"at most 10,000"),
        (Bounds(0, 0, 0, SHORTEST_SCALEDOWN_S - 1), r"must be 2 to 3600 s"),
        (Bounds(0, 0, 0, LONGEST_SCALEDOWN_S + 1), r"must be 2 to 3600 s"),
    ],
)
def test_what_may_not(bounds: Bounds, why: str) -> None:
    with pytest.raises(InvalidInput, match=f"'f'.*{why}"):
        check("f", bounds)
