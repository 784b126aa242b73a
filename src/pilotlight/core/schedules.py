"""When a function with a schedule runs by itself: a pure function of the schedule, what has been, and the clock.

Due times follow from the schedule and its anchor alone, so a restarted server finds the same ones.
Times are seconds since the epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from pilotlight.core.errors import InvalidInput

LATE_S = 60.0  # a due time that passed longer ago, while nobody was there to see it, is reported instead of made up for
SHORTEST_PERIOD_S = 1.0
LONGEST_PERIOD = timedelta(days=365 * 100)
MOST_COUNTED = 100_000  # due times that passed unseen are counted up to here


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, in a time zone's wall clock; around its changes it fires as Debian's cron does."""

    expression: str
    timezone: str = "UTC"

    def __str__(self) -> str:
        return f"cron {self.expression!r} ({self.timezone})"


@dataclass(frozen=True, slots=True)
class Period:
    """An interval from one firing to the next; months and years are those of the calendar, in UTC."""

    months: int = 0
    rest: timedelta = field(default_factory=timedelta)

    def __str__(self) -> str:
        months = f"{self.months} months " if self.months else ""
        return f"every {months}{self.rest if self.rest else ''}".rstrip()


Schedule = Cron | Period


@dataclass(frozen=True, slots=True)
class Plan:
    """What a look at the clock says: the due time to fire now, if any, how many passed unseen before it, and the next one.

    `next_due` is infinite where no further time will come.
    """

    fire: float | None
    missed: int
    next_due: float


def check(schedule: Schedule, name: str) -> None:
    """Raise InvalidInput for a schedule of function `name` that can never be followed."""
    if isinstance(schedule, Period):
        if schedule.months > LONGEST_PERIOD.days // 30 or schedule.rest > LONGEST_PERIOD:
            raise InvalidInput(f"The period of function {name!r} is {schedule}; the longest is {LONGEST_PERIOD.days // 365} years.")
        if schedule.months < 0 or (not schedule.months and schedule.rest.total_seconds() < SHORTEST_PERIOD_S):
            raise InvalidInput(f"The period of function {name!r} is {schedule.rest}; the shortest is {SHORTEST_PERIOD_S:g} s.")
        return
    try:
        ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(
            f"Function {name!r} has the time zone {schedule.timezone!r} in its schedule, which is unknown here. "
            "Use a name of the IANA database, such as Europe/Berlin or UTC."
        ) from error
    try:
        CronSim(schedule.expression, datetime.now(UTC))
    except CronSimError as error:
        raise InvalidInput(
            f"Function {name!r} has the cron expression {schedule.expression!r}, which can't be read ({error}). "
            "It has five fields: minute, hour, day of month, month, day of week."
        ) from error


def first_due(schedule: Schedule, anchor: float) -> float:
    """The first due time after `anchor`: for a period, when it began."""
    return next(_due_times(schedule, anchor), float("inf"))


def look(schedule: Schedule, next_due: float, now: float) -> Plan:
    """What to do at `now`, where `next_due` is the earliest due time that has not been dealt with."""
    if next_due > now:
        return Plan(None, 0, next_due)
    fire, passed = next_due, 0
    for following in _due_times(schedule, next_due):
        if following > now or passed >= MOST_COUNTED:
            break
        fire, passed = following, passed + 1
    else:
        following = float("inf")
    if following <= now:  # too many to count: go on from here
        following = first_due(schedule, now)
    if now - fire > LATE_S:
        return Plan(None, passed + 1, following)
    return Plan(fire, passed, following)


def _due_times(schedule: Schedule, after: float) -> Iterator[float]:
    """Due times after a moment. For a period that moment is itself one (or its beginning)."""
    if isinstance(schedule, Cron):
        begin = datetime.fromtimestamp(after, ZoneInfo(schedule.timezone))
        for moment in CronSim(schedule.expression, begin):
            yield moment.timestamp()
        return
    due = datetime.fromtimestamp(after, UTC)
    while True:
        due = _months_later(due, schedule.months) + schedule.rest
        yield due.timestamp()


def _months_later(moment: datetime, months: int) -> datetime:
    if not months:
        return moment
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    for day in range(moment.day, moment.day - 4, -1):  # the last of the month where there is no such day in it
        try:
            return moment.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    raise AssertionError("every month has 28 days")
