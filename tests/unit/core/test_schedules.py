"""Due times: cron in its time zone, periods from their beginning, and what was missed."""

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.errors import InvalidInput
from pilotlight.core.schedules import LATE_S, Cron, Period, check, first_due, look

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo | None = None) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC).timestamp()


@pytest.mark.parametrize(
    ("expression", "after", "due"),
    [
        ("*/15 9-17 * * mon-fri", "2026-11-27T17:50", "2026-11-30T09:00"),
        ("0 0 1 jan *", "2026-02-01T00:00", "2027-01-01T00:00"),
        ("5,35 * * * *", "2026-11-26T10:05", "2026-11-26T10:35"),
        ("0 12 29 2 *", "2026-03-01T00:00", "2028-02-29T12:00"),
    ],
)
def test_cron_names_ranges_and_steps(expression: str, after: str, due: str) -> None:
    assert first_due(Cron(expression), at(after)) == at(due)


def test_a_cron_keeps_to_the_wall_clock_of_its_zone() -> None:
    nightly = Cron("0 6 * * *", "Europe/Berlin")
    winter, summer = first_due(nightly, at("2026-03-28T05:30", BERLIN)), first_due(nightly, at("2026-03-29T05:30", BERLIN))
    assert datetime.fromtimestamp(winter, BERLIN).hour == datetime.fromtimestamp(summer, BERLIN).hour == 6
    assert summer - winter == 23 * 3600  # the night in which the clocks go forward


def test_a_time_that_the_clock_skips_or_repeats_is_due_once() -> None:
    skipped = Cron("30 2 * * *", "Europe/Berlin")
    due = [first_due(skipped, at("2026-03-28T12:00", BERLIN))]
    due.append(first_due(skipped, due[0]))
    assert [datetime.fromtimestamp(time, BERLIN).day for time in due] == [29, 30]
    repeated = first_due(skipped, at("2026-10-24T12:00", BERLIN))
    assert datetime.fromtimestamp(first_due(skipped, repeated), BERLIN).day == 26


def test_a_period_counts_from_its_beginning_and_months_from_the_calendar() -> None:
    assert first_due(Period(rest=timedelta(hours=5)), at("2026-11-26T01:00")) == at("2026-11-26T06:00")
    assert first_due(Period(months=1), at("2026-01-31T08:00")) == at("2026-02-28T08:00")
    assert first_due(Period(months=12), at("2026-11-26T00:00")) == at("2027-11-26T00:00")


def test_what_is_due_fires_and_what_passed_unseen_is_counted() -> None:
    minutely, start = Cron("* * * * *"), at("2026-11-26T10:00")
    assert look(minutely, start, start - 0.001).fire is None
    on_time = look(minutely, start, start + 0.02)
    assert (on_time.fire, on_time.missed, on_time.next_due) == (start, 0, start + 60)
    late = look(minutely, start, start + 3 * 60 + 30)
    assert (late.fire, late.missed, late.next_due) == (start + 180, 3, start + 240)


def test_after_long_silence_nothing_is_made_up_for() -> None:
    nightly, start = Cron("0 3 * * *"), at("2026-11-20T03:00")
    plan = look(nightly, start, at("2026-11-26T10:00"))
    assert (plan.fire, plan.missed, plan.next_due) == (None, 7, at("2026-11-27T03:00"))


def test_a_year_of_missed_seconds_takes_no_longer_than_a_glance() -> None:
    plan = look(Period(rest=timedelta(seconds=1)), at("2020-01-01T00:00"), at("2026-01-01T00:00"))
    assert plan.fire is None and plan.missed > 1000 and plan.next_due > at("2026-01-01T00:00")


@given(st.floats(1, 1e6), st.floats(0, 2e9), st.floats(0, 1e6))
def test_each_due_time_is_dealt_with_once(period_s: float, start: float, waited_s: float) -> None:
    period = Period(rest=timedelta(seconds=round(period_s, 3)))
    due = first_due(period, start)
    plan = look(period, due, due + waited_s)
    assert plan.next_due > due + waited_s
    assert plan.fire is None or due <= plan.fire <= due + waited_s < plan.fire + LATE_S + 1
    assert math.isfinite(plan.next_due)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Cron("61 * * * *"), "61"),
        (Cron("* * * *"), "five fields"),
        (Cron("0 0 * * *", "Mars/Olympus"), "Mars/Olympus"),
        (Cron("0 0 * * *", "../etc/passwd"), "IANA"),
        (Period(rest=timedelta(seconds=0.5)), "shortest"),
        (Period(), "shortest"),
    ],
)
def test_a_schedule_that_can_not_be_followed_is_refused_by_name(schedule: Cron | Period, words: str) -> None:
    with pytest.raises(InvalidInput, match="'nightly'") as refused:
        check(schedule, "nightly")
    assert words in str(refused.value)
