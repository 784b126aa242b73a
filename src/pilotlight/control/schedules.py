"""Schedules of deployed functions: when each is due, and that it runs once for each due time.

A firing is a call whose id follows from the function and the due time, so a server that was killed between the call and the note of
it makes no second one. What passed while the platform was down is not made up for, but said in the function's log.
"""

import math
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from modal_proto import api_pb2
from sqlalchemy import Connection

from pilotlight.control.acceptance import call_id_of
from pilotlight.control.apps import AppRecord, Apps
from pilotlight.control.calls import Calls
from pilotlight.control.functions import schedule_from
from pilotlight.control.output_log import OutputLog
from pilotlight.core import errors
from pilotlight.core.schedules import Cron, Schedule, first_due, look
from pilotlight.store import calls as call_rows
from pilotlight.store import schedules as store
from pilotlight.store.database import Database

log = structlog.get_logger()

NO_ARGUMENTS = pickle.dumps(((), {}))


@dataclass(slots=True, eq=False)
class Scheduled:
    """A function that runs by itself."""

    function_id: str
    app_id: str
    tag: str
    definition_id: str
    message: bytes  # modal.client.Schedule
    schedule: Schedule
    next_due: float  # seconds since the epoch; infinite: never again
    missed: int = 0
    last_due: float | None = None
    last_call_id: str | None = None


class Schedules:
    """All schedules. Lives on the event loop's thread."""

    def __init__(
        self,
        *,
        database: Database,
        apps: Apps,
        calls: Calls,
        output_log: OutputLog,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._apps = apps
        self._calls = calls
        self._output_log = output_log
        self._now = now
        self._scheduled: dict[str, Scheduled] = {}
        self.on_change: Callable[[], None] = lambda: None
        self.fired_total = 0
        self.missed_total = 0

    def all(self) -> list[Scheduled]:
        return list(self._scheduled.values())

    def next_due(self) -> float | None:
        """The earliest due time of all."""
        return min((scheduled.next_due for scheduled in self._scheduled.values()), default=None)

    async def restore(self) -> None:
        """Read what there is, and bring it in line with the apps that are deployed: a publication may have been cut short."""
        for row in await self._database.read(store.all_schedules):
            if (schedule := schedule_from(row.schedule)) is not None:
                due = row.next_due if row.next_due is not None else math.inf
                self._scheduled[row.function_id] = Scheduled(
                    row.function_id, row.app_id, row.tag, row.definition_id, row.schedule, schedule, due,
                    row.missed, row.last_due, row.last_call_id,
                )  # fmt: skip
        await self._remove([scheduled for scheduled in self.all() if not self._apps.is_live(scheduled.app_id)])
        for app in self._apps.all():
            await self.follow(app)
        for scheduled in self.all():
            await self._skip_what_was_called(scheduled)

    async def _skip_what_was_called(self, scheduled: Scheduled) -> None:
        """The server may have died between a call and its note, by which the due time would be called again, or count as missed."""
        due = scheduled.next_due
        call_id = call_id_of(scheduled.function_id, _key(scheduled, due))
        if await self._database.read(lambda connection: call_rows.call_row(connection, call_id)) is None:
            return
        scheduled.last_due, scheduled.last_call_id = due, call_id
        scheduled.next_due = first_due(scheduled.schedule, due)
        await self._note(scheduled)

    async def follow(self, app: AppRecord) -> None:
        """Take over the schedules of what an app consists of now. A cron keeps its times, a period begins anew."""
        wanted = {}
        if app.state == api_pb2.APP_STATE_DEPLOYED:
            function_ids = list((await self._apps.members(app.app_id))[0].values())
            rows = await self._database.read(lambda connection: store.wanted_of_app(connection, app.app_id, function_ids))
            wanted = {row.function_id: row for row in rows if schedule_from(row.schedule) is not None}
        held = [scheduled for scheduled in self.all() if scheduled.app_id == app.app_id]
        await self._remove([scheduled for scheduled in held if scheduled.function_id not in wanted])
        now, fresh = self._now(), list[Scheduled]()
        for row in wanted.values():
            known = self._scheduled.get(row.function_id)
            if known is not None and known.definition_id == row.definition_id:
                continue
            schedule = schedule_from(row.schedule)
            assert schedule is not None
            keeps = known is not None and known.message == row.schedule and isinstance(schedule, Cron)
            due = known.next_due if known is not None and keeps else first_due(schedule, now)
            fresh.append(
                Scheduled(row.function_id, app.app_id, row.tag, row.definition_id, row.schedule, schedule, due,
                          known.missed if known else 0, known.last_due if known else None, known.last_call_id if known else None)
            )  # fmt: skip
        await self._put(fresh)
        self.on_change()

    async def stop(self, app_id: str) -> None:
        """The app has ended: nothing of it fires any more."""
        await self._remove([scheduled for scheduled in self.all() if scheduled.app_id == app_id])

    async def fire_due(self) -> int:
        """Start what is due now; returns how many calls."""
        now, count = self._now(), 0
        for scheduled in [scheduled for scheduled in self.all() if scheduled.next_due <= now]:
            plan = look(scheduled.schedule, scheduled.next_due, now)
            if plan.missed:
                self._report_missed(scheduled, plan.missed)
                scheduled.missed += plan.missed
                scheduled.next_due = plan.next_due if plan.fire is None else plan.fire
                await self._note(scheduled)  # before the call: what comes after a death begins at this due time
            if plan.fire is not None:
                try:
                    await self._fire(scheduled, plan.fire)
                    count += 1
                except errors.PilotlightError as error:  # of this one; the others are due all the same
                    log.warning("schedule_not_fired", function_id=scheduled.function_id, due=plan.fire, error=str(error))
            scheduled.next_due = plan.next_due
            await self._note(scheduled)
        return count

    async def _fire(self, scheduled: Scheduled, due: float) -> None:
        request = api_pb2.FunctionMapRequest(
            function_id=scheduled.function_id,
            function_call_type=api_pb2.FUNCTION_CALL_TYPE_UNARY,
            function_call_invocation_type=api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
            pipelined_inputs=[
                api_pb2.FunctionPutInputsItem(
                    idx=0, input=api_pb2.FunctionInput(args=NO_ARGUMENTS, data_format=api_pb2.DATA_FORMAT_PICKLE)
                )
            ],
        )
        call, _ = await self._calls.start(request, _key(scheduled, due), repeated=True)
        scheduled.last_due, scheduled.last_call_id = due, call.call_id
        self.fired_total += 1
        log.info("schedule_fired", function_id=scheduled.function_id, due=due, call_id=call.call_id)

    def _report_missed(self, scheduled: Scheduled, count: int) -> None:
        self.missed_total += count
        since = datetime.fromtimestamp(scheduled.next_due, UTC).isoformat(timespec="seconds")
        text = (
            f"Function {scheduled.tag} was due {count} time{'s' if count > 1 else ''} since {since} "
            f"while the platform was down ({scheduled.schedule}); it was not run for {'them' if count > 1 else 'it'}.\n"
        )
        self._output_log.say(scheduled.app_id, scheduled.function_id, "", text)
        log.warning("schedule_missed", function_id=scheduled.function_id, count=count, since=since)

    async def _note(self, scheduled: Scheduled) -> None:
        values = {
            "next_due": None if math.isinf(scheduled.next_due) else scheduled.next_due,
            "missed": scheduled.missed,
            "last_due": scheduled.last_due,
            "last_call_id": scheduled.last_call_id,
        }
        await self._database.write(lambda connection: store.advance(connection, scheduled.function_id, values))

    async def _put(self, fresh: Sequence[Scheduled]) -> None:
        rows = [
            {
                "function_id": item.function_id,
                "app_id": item.app_id,
                "tag": item.tag,
                "definition_id": item.definition_id,
                "schedule": item.message,
                "next_due": None if math.isinf(item.next_due) else item.next_due,
                "missed": item.missed,
                "last_due": item.last_due,
                "last_call_id": item.last_call_id,
            }
            for item in fresh
        ]

        def apply(connection: Connection) -> None:
            for row in rows:
                store.put(connection, row)

        if rows:
            await self._database.write(apply)
        self._scheduled.update((item.function_id, item) for item in fresh)

    async def _remove(self, leaving: Sequence[Scheduled]) -> None:
        function_ids = [scheduled.function_id for scheduled in leaving]
        for function_id in function_ids:
            self._scheduled.pop(function_id, None)
        if function_ids:
            await self._database.write(lambda connection: store.remove(connection, function_ids))


def _key(scheduled: Scheduled, due: float) -> str:
    """Under which a due time makes its one call."""
    return f"schedule {scheduled.function_id} {due!r}"
