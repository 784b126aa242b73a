"""Buckets of tokens: never more than the rate allows, over any time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.rates import BURST_S, Pace, Paces, TokenBucket


@given(st.floats(0.1, 500), st.lists(st.floats(0, 3), max_size=200))
def test_no_more_than_the_burst_and_what_came_in(rate_per_s: float, pauses: list[float]) -> None:
    bucket, now_s, taken = TokenBucket(rate_per_s, 0.0), 0.0, 0
    for pause in pauses:
        now_s += pause
        wait_s = bucket.take(now_s)
        taken += wait_s == 0.0
        assert wait_s <= 1 / rate_per_s + 1e-9
    assert taken <= rate_per_s * (BURST_S + now_s) + 1e-6


def test_a_token_is_there_after_the_time_that_was_said() -> None:
    bucket = TokenBucket(2, 0.0)
    assert [bucket.take(0.0) for _ in range(11)] == [0.0] * 10 + [0.5]
    assert bucket.take(0.4) > 0
    assert bucket.take(0.5) == 0.0
    bucket.put_back()
    assert bucket.take(0.5) == 0.0


def test_who_is_ahead_of_its_pace_is_told_by_how_much() -> None:
    pace = Pace(10.0, 5.0, 0.0)
    assert [pace.take(0.0) for _ in range(5)] == [0.0] * 5
    assert pace.take(0.0) == pytest.approx(0.1)
    assert pace.take(0.0) == pytest.approx(0.2)
    assert pace.take(0.3) == 0.0
    assert pace.take(0.3) == pytest.approx(0.1)
    assert [pace.take(100.0) for _ in range(6)][-2:] == [0.0, pytest.approx(0.1)]  # rest is not saved up beyond the burst


def test_each_name_has_a_pace_of_its_own() -> None:
    paces = Paces(1.0, 1.0, lambda: 0.0)
    assert (paces.take("a"), paces.take("b")) == (0.0, 0.0)
    assert (paces.take("a"), paces.take("b")) == (1.0, 1.0)
