"""Buckets of time: how wide, which, and what becomes of what fell into them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core import errors, timelines
from pilotlight.core.timelines import BUCKETS_S, OF_FUNCTIONS, OF_SERVERS, Window

HOUR, DAY = 3_600, 86_400
NOON = 1_700_000_000 // DAY * DAY + 12 * HOUR


@pytest.mark.parametrize(
    ("span_s", "bucket_s"), [(HOUR, 60), (3 * HOUR, 120), (DAY, 15 * 60), (7 * DAY, 2 * HOUR), (31 * DAY, 8 * HOUR)]
)
def test_without_a_width_there_are_about_a_hundred_buckets(span_s: int, bucket_s: int) -> None:
    buckets = timelines.window(NOON - span_s, NOON, None)
    assert buckets.bucket_s == bucket_s and 50 <= len(buckets.starts) <= 100


def test_bounds_are_rounded_down_to_buckets() -> None:
    buckets = timelines.window(NOON + 61.5, NOON + 599.9, 300)
    assert buckets == Window(NOON, NOON + 300, 300)
    assert list(timelines.window(NOON + 1, NOON + 2, 60).starts) == []


@pytest.mark.parametrize(
    ("since", "until", "bucket_s", "why"),
    [
        (NOON, NOON, None, "before"),
        (NOON - 32 * DAY, NOON, None, "31 days"),
        (NOON - HOUR, NOON, 61, "1m, 2m"),
        (NOON - DAY, NOON, 60, "500 points"),
    ],
)
def test_what_is_no_window_is_refused_in_words(since: float, until: float, bucket_s: int | None, why: str) -> None:
    with pytest.raises(errors.InvalidInput, match=why):
        timelines.window(since, until, bucket_s)


def test_groups_are_chosen_by_name() -> None:
    assert list(timelines.chosen(OF_FUNCTIONS, [])) == ["calls", "containers", "cpu", "memory", "gpu"]
    assert list(timelines.chosen(OF_SERVERS, ["gpu", "requests", "gpu"])) == ["gpu", "requests"]
    with pytest.raises(errors.InvalidInput, match=r"'network'.*calls, containers"):
        timelines.chosen(OF_FUNCTIONS, ["network"])


@pytest.mark.parametrize("groups", [OF_FUNCTIONS, OF_SERVERS])
def test_no_two_series_have_one_name(groups: timelines.Groups) -> None:
    names = [name for families in groups.values() for family in families for name in family.names]
    assert len(names) == len(set(names))


def test_moments_are_counted_in_their_buckets_and_those_outside_in_none() -> None:
    buckets = Window(NOON, NOON + 180, 60)
    moments = [(NOON - 0.1, 5), (NOON, 1), (NOON + 59.9, 2), (NOON + 120, 4), (NOON + 180, 8)]
    assert timelines.counts(buckets, moments) == [3, 0, 4]


def test_a_level_is_weighted_by_time_and_its_peak_is_kept() -> None:
    buckets = Window(NOON, NOON + 180, 60)
    spans = [(NOON - 1_000, NOON + 60, 1.0), (NOON + 30, NOON + 45, 2.0), (NOON + 150, NOON + 1_000, 1.0)]
    assert timelines.levels(buckets, spans) == {"avg": [1.5, 0.0, 0.5], "max": [3.0, 0.0, 1.0]}


def test_a_bucket_without_samples_has_no_percentile() -> None:
    buckets = Window(NOON, NOON + 120, 60)
    samples = [(NOON + second, float(second)) for second in range(10)]
    assert timelines.spread(buckets, samples) == {"p50": [4.0, None], "p90": [8.0, None], "p99": [9.0, None], "max": [9.0, None]}


def test_what_is_not_wholly_known_is_none() -> None:
    buckets = Window(NOON, NOON + 240, 60)
    assert timelines.unknown_outside(buckets, [1, 2, 3, 4], NOON + 1, NOON + 239) == [None, 2, 3, None]


spans = st.lists(st.tuples(st.integers(-300, 900), st.integers(0, 900), st.integers(1, 5)), max_size=12)


@given(spans, st.sampled_from(BUCKETS_S[:4]))
def test_the_means_are_the_area_and_no_mean_is_over_its_peak(drawn: list[tuple[int, int, int]], bucket_s: int) -> None:
    buckets = Window(NOON, NOON + 4 * bucket_s, bucket_s)
    held = [(float(NOON + begin), float(NOON + begin + length), float(amount)) for begin, length, amount in drawn]
    values = timelines.levels(buckets, held)
    area = sum(max(0.0, min(end, buckets.until) - max(begin, buckets.since)) * amount for begin, end, amount in held)
    means = [value or 0.0 for value in values["avg"]]
    assert sum(means) * bucket_s == pytest.approx(area, abs=1e-3)
    assert all(mean <= (most or 0.0) + 1e-6 for mean, most in zip(means, values["max"], strict=True))
