"""What is made of the times of cold starts."""

from bench.cold import ROUNDS_OF_P99, summary


def test_a_percentile_is_told_where_there_are_enough_rounds_for_it() -> None:
    assert set(summary([3.0])) == set(summary([1.0] * (ROUNDS_OF_P99 - 1))) == {"best", "p50", "p95", "rounds"}
    assert "p99" in summary([1.0] * ROUNDS_OF_P99)
