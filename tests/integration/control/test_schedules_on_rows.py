"""Schedules over real rows: one call per due time, through deployments, rollbacks, stops and restarts."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from heart import IMAGE_ID, Heart, beat
from modal_proto import api_pb2

from pilotlight.control.schedules import Scheduled, Schedules
from pilotlight.core import errors
from pilotlight.core.schedules import Cron, Period
from pilotlight.store import calls as call_rows

DEPLOYED = api_pb2.APP_STATE_DEPLOYED
MINUTELY = api_pb2.Schedule(cron={"cron_string": "* * * * *"})
HOURLY = api_pb2.Schedule(period={"hours": 1})
SECONDLY = api_pb2.Schedule(period={"seconds": 1})
START = 1_800_000_000.0  # a full minute


class Calendar:
    """The server's heart, with a clock that the test turns."""

    def __init__(self, heart: Heart) -> None:
        self.heart = heart
        self.now = START

    async def restart(self) -> None:
        await self.heart.restart()
        await self._adopt()

    async def _adopt(self) -> None:
        server = self.heart.server
        server.apps.after_live.clear()
        self.schedules = server.schedules = Schedules(
            database=server.database, apps=server.apps, calls=server.calls, output_log=server.output_log, now=lambda: self.now
        )
        server.apps.after_live.append(self.schedules.follow)
        await self.schedules.restore()

    async def deploy(self, schedule: api_pb2.Schedule | None, key: str = "1", state: int = DEPLOYED, **fields: Any) -> str:
        """One function in one app; the same app for every key."""
        await self.heart._image()
        server = self.heart.server
        app = await server.apps.create(api_pb2.AppCreateRequest(description="nightly", app_state=state), "1.6.4", "app")
        function = api_pb2.Function(function_name="job", image_id=IMAGE_ID, schedule=schedule, **fields)
        create = api_pb2.FunctionCreateRequest(app_id=app.app_id, function=function, existing_function_id="fu-job")
        function_id, _, handle = await server.functions.create(create, "1.6.4", f"function {key}", for_run=state != DEPLOYED)
        publish = api_pb2.AppPublishRequest(
            app_id=app.app_id,
            app_state=state,  # type: ignore[arg-type]
            name="nightly" if state == DEPLOYED else "",
            function_ids={"job": function_id},
            definition_ids={function_id: handle.definition_id},
        )
        await server.apps.publish(publish, "test", "1.6.4")
        self.app_id = app.app_id
        return function_id

    async def calls(self) -> int:
        """Calls that are on disk and have no output."""
        return len({row.call_id for row in await self.heart.server.database.read(call_rows.unfinished)})


def turn(state: Path, scenario: Callable[[Calendar], Awaitable[None]]) -> None:
    async def run(heart: Heart) -> None:
        calendar = Calendar(heart)
        await calendar._adopt()
        await scenario(calendar)

    beat(state, run)


def test_a_due_time_makes_one_call(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(MINUTELY)
        assert await calendar.schedules.fire_due() == 0
        calendar.now += 60
        assert await calendar.schedules.fire_due() == 1
        assert await calendar.schedules.fire_due() == 0
        calendar.now += 60
        assert await calendar.schedules.fire_due() == 1
        assert await calendar.calls() == 2  # the first has not ended: they overlap

    turn(tmp_path, scenario)


def test_a_call_that_was_made_before_a_crash_is_not_made_again(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(MINUTELY)
        calendar.now += 60
        scheduled = calendar.schedules.all()[0]
        await calendar.schedules._fire(scheduled, scheduled.next_due)  # and then the server dies, before it has noted that
        await calendar.restart()
        assert await calendar.schedules.fire_due() == 0
        assert await calendar.calls() == 1
        calendar.now += 60
        assert await calendar.schedules.fire_due() == 1
        assert await calendar.calls() == 2

    turn(tmp_path, scenario)


@pytest.mark.parametrize("late_s", [1, 4])
def test_what_was_called_before_a_crash_does_not_count_as_missed(tmp_path: Path, late_s: int) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(SECONDLY)
        note = calendar.schedules._note

        async def die(scheduled: Scheduled) -> None:
            if scheduled.last_due is not None:  # it has called
                raise ConnectionAbortedError
            await note(scheduled)

        calendar.schedules._note = die  # type: ignore[method-assign]
        calendar.now += late_s
        with pytest.raises(ConnectionAbortedError):
            await calendar.schedules.fire_due()
        calendar.now += 3
        await calendar.restart()
        assert await calendar.schedules.fire_due() == 1
        [scheduled] = calendar.schedules.all()
        assert await calendar.calls() == 2
        assert scheduled.missed == late_s + 3 - 2  # each due time was either called or missed
        assert calendar.schedules.missed_total == 2
        await calendar.restart()
        assert await calendar.schedules.fire_due() == 0 and await calendar.calls() == 2

    turn(tmp_path, scenario)


def test_what_was_missed_is_reported_and_not_made_up_for(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(HOURLY)
        calendar.now += 5 * 3600 + 1800
        await calendar.restart()
        assert await calendar.schedules.fire_due() == 0
        assert await calendar.calls() == 0
        scheduled = calendar.schedules.all()[0]
        assert scheduled.missed == 5 and scheduled.next_due == START + 6 * 3600

    turn(tmp_path, scenario)


def test_a_restart_of_moments_misses_nothing(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(HOURLY)
        calendar.now += 3602
        await calendar.restart()
        assert await calendar.schedules.fire_due() == 1

    turn(tmp_path, scenario)


def test_a_cron_keeps_its_times_and_a_period_begins_anew(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(MINUTELY, "1")
        calendar.now += 30
        await calendar.deploy(MINUTELY, "2")
        assert calendar.schedules.next_due() == START + 60
        await calendar.deploy(HOURLY, "3")
        calendar.now += 1000
        await calendar.deploy(HOURLY, "4")
        assert calendar.schedules.next_due() == calendar.now + 3600

    turn(tmp_path, scenario)


def test_a_rollback_brings_the_old_schedule_and_takes_the_new_one_away(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(None, "1")
        await calendar.deploy(MINUTELY, "2")
        assert isinstance(calendar.schedules.all()[0].schedule, Cron)
        await calendar.heart.server.apps.rollback(calendar.app_id, 1, "test")
        assert calendar.schedules.all() == []
        await calendar.heart.server.apps.rollback(calendar.app_id, 2, "test")
        assert calendar.schedules.next_due() == START + 60

    turn(tmp_path, scenario)


def test_a_stopped_app_fires_no_more(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(MINUTELY)
        await calendar.heart.server.apps.stop(calendar.app_id, "test")
        calendar.now += 120
        assert await calendar.schedules.fire_due() == 0
        await calendar.restart()
        assert calendar.schedules.all() == []

    turn(tmp_path, scenario)


def test_a_mere_run_has_no_schedule(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        await calendar.deploy(MINUTELY, state=api_pb2.APP_STATE_EPHEMERAL)
        assert calendar.schedules.all() == []

    turn(tmp_path, scenario)


def test_a_publication_cut_short_is_followed_at_the_next_start(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        calendar.heart.server.apps.after_live.clear()
        await calendar.deploy(HOURLY)
        await calendar.restart()
        assert isinstance(calendar.schedules.all()[0].schedule, Period)
        assert calendar.schedules.all()[0].schedule == Period(rest=timedelta(hours=1))

    turn(tmp_path, scenario)


def test_a_schedule_on_a_function_with_arguments_is_refused(tmp_path: Path) -> None:
    async def scenario(calendar: Calendar) -> None:
        schema = api_pb2.FunctionSchema(arguments=[{"name": "x"}, {"name": "y", "has_default": True}])
        with pytest.raises(errors.InvalidInput, match="it needs x"):
            await calendar.deploy(HOURLY, function_schema=schema)

    turn(tmp_path, scenario)
