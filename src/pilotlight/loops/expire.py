"""Ends what nobody looks after any more, and deletes what is past its time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pilotlight.control.apps import Apps
from pilotlight.control.output_log import OutputLog
from pilotlight.store import calls as call_rows
from pilotlight.store.database import Database

ROWS_PER_PASS = 1_000


@dataclass(slots=True)
class Report:
    """What a pass ended or deleted, by kind."""

    counts: dict[str, int] = field(default_factory=dict)


class ExpireLoop:
    """Abandoned ephemeral apps, results past their seven days, old output, and whatever `collectors` names."""

    name = "expire"
    interval_s = 10.0
    calm_s = 0.0

    def __init__(
        self,
        *,
        apps: Apps,
        output_log: OutputLog,
        database: Database,
        result_ttl_s: float,
        collectors: Mapping[str, Callable[[], Awaitable[int]]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._collectors: dict[str, Callable[[], Awaitable[int]]] = {
            "abandoned_apps": apps.stop_abandoned,
            "expired_calls": self._expire_calls,
            "old_output": output_log.collect,
            **collectors,
        }
        self._database = database
        self._result_ttl_s = result_ttl_s
        self._now = now
        self.wake = asyncio.Event()

    async def run_once(self) -> Report:
        """One pass over all kinds."""
        return Report({kind: await collect() for kind, collect in self._collectors.items()})

    async def _expire_calls(self) -> int:
        before = self._now() - self._result_ttl_s
        return await self._database.write(lambda connection: call_rows.delete_expired(connection, before, ROWS_PER_PASS))
