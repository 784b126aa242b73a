"""What a workspace may have at a time."""

import pytest

from pilotlight.core.gpus import GpuWish
from pilotlight.core.placement import Need, Unplaced
from pilotlight.core.quotas import Quota

PLAIN, ONE, EIGHT = Need(125, 128), Need(125, 128, GpuWish("T4", 1)), Need(125, 128, GpuWish("H100", 8))


def test_without_limits_everything_may_be_had() -> None:
    assert Quota().allowed([EIGHT, ONE, PLAIN], 10_000, 1_000) == [0, 1, 2]


def test_as_many_containers_as_there_may_be_and_no_more() -> None:
    assert Quota(max_containers=2).allowed([PLAIN], 1, 0) == [0]
    refused = Quota(max_containers=2).allowed([PLAIN], 2, 0)
    assert isinstance(refused, Unplaced) and not refused.never and "2 of at most 2 containers" in refused.why


@pytest.mark.parametrize(("in_use", "numbers"), [(0, [0, 1]), (1, [1]), (7, [1])])
def test_what_is_asked_for_second_is_had_where_the_first_is_too_much(in_use: int, numbers: list[int]) -> None:
    assert Quota(max_gpus=8).allowed([EIGHT, ONE], 0, in_use) == numbers


def test_a_need_that_is_beyond_the_limit_is_never_met_and_one_within_it_may_be_later() -> None:
    never, later = Quota(max_gpus=4).allowed([EIGHT], 0, 0), Quota(max_gpus=4).allowed([ONE], 0, 4)
    assert isinstance(never, Unplaced) and never.never and "may have 4" in never.why
    assert isinstance(later, Unplaced) and not later.never and "4 of at most 4 GPUs" in later.why
    assert Quota(max_gpus=4).allowed([ONE, PLAIN], 0, 4) == [1]
