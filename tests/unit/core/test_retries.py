import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.retries import STARTUP_BACKOFF_S, RetryPolicy, crash_backoff_s, startup_backoff_s


def test_delays_grow_up_to_the_limit() -> None:
    policy = RetryPolicy(retries=4, initial_delay_s=1, backoff_coefficient=3, max_delay_s=10)
    assert [policy.delay_s(number) for number in range(5)] == [1, 3, 9, 10, None]


def test_without_a_policy_there_is_no_second_attempt() -> None:
    assert RetryPolicy().delay_s(0) is None


@given(
    retries=st.integers(0, 10),
    initial=st.floats(0, 60),
    coefficient=st.floats(1, 10),
    limit=st.floats(0, 60),
    count=st.integers(0, 20),
)
def test_no_delay_is_beyond_the_limit(retries: int, initial: float, coefficient: float, limit: float, count: int) -> None:
    delay_s = RetryPolicy(retries, initial, coefficient, limit).delay_s(count)
    assert (delay_s is None) == (count >= retries)
    assert delay_s is None or 0 <= delay_s <= limit


@pytest.mark.parametrize("failures", [-1, 0])
def test_the_first_start_waits_for_nothing(failures: int) -> None:
    assert startup_backoff_s(failures) == 0


def test_starts_that_fail_again_and_again_wait_the_longest_time() -> None:
    assert [startup_backoff_s(number) for number in (1, 2, 3, 50)] == [
        *STARTUP_BACKOFF_S,
        STARTUP_BACKOFF_S[-1],
        STARTUP_BACKOFF_S[-1],
    ]


def test_crash_loops_slow_down_to_a_minute() -> None:
    assert [crash_backoff_s(number) for number in range(9)] == [0, 0, 1, 2, 4, 8, 16, 32, 60]
    assert crash_backoff_s(10**6) == 60
