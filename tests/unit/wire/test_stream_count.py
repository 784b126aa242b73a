"""The count of streams: never too low, exact where it matters, and not made anew for each stream."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from pilotlight.wire.stream_count import StreamCount

MOST = 200


@given(st.lists(st.integers(min_value=0, max_value=3), max_size=1500))
def test_never_too_low_and_a_stream_is_refused_only_where_there_are_too_many(closings: list[int]) -> None:
    is_open = 0
    connection = SimpleNamespace(_open_streams=lambda remainder: is_open)
    count = StreamCount(connection, MOST)
    for closing in closings:
        said = count(1)
        assert said >= is_open
        assert (said + 1 > MOST) == (is_open + 1 > MOST)
        if said + 1 <= MOST:
            is_open += 1
        is_open = max(0, is_open - closing)


def test_many_streams_are_looked_through_a_few_times_only() -> None:
    looks, is_open = 0, 0

    def scan(remainder: int) -> int:
        nonlocal looks
        looks += 1
        return is_open

    count = StreamCount(SimpleNamespace(_open_streams=scan), 10_000)
    for _ in range(9_999):
        count(1)
        is_open += 1
    assert looks < 20
