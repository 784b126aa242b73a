"""`pilotlight audit`: who changed what, and what came of it."""

import json
import re
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import click

from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_option
from pilotlight.cli.tables import moment, show_table
from pilotlight.config import Settings
from pilotlight.supervisor.start import running_settings
from pilotlight.wire.platform_pb2 import AuditEvent, AuditRequest

WAIT_S = 50.0  # for the next event, in one request
TIMEOUT_S = 60.0
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Since(click.ParamType):
    """A time ago ("90m", "2d") or a date ("2026-11-26", "2026-11-26T08:00"), as seconds since the epoch."""

    name = "since"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not isinstance(value, str):
            return value
        if ago := re.fullmatch(r"(\d+)([smhd])", value):
            return time.time() - int(ago[1]) * UNITS_S[ago[2]]
        try:
            return datetime.fromisoformat(value).timestamp()
        except ValueError:
            self.fail(f"{value!r} is neither a time ago (90m, 2d) nor a date (2026-11-26T08:00).", param, ctx)


@click.command()
@click.option("--since", type=Since(), default=0.0, metavar="TIME", help="From then on: 90m, 2d, or a date. Default: all.")
@click.option("--limit", default=200, metavar="N", help="The newest N events (default 200).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--follow", is_flag=True, help="Go on with what happens from now on.")
@state_option
def audit(*, since: float, limit: int, as_json: bool, follow: bool, state: Path | None) -> None:
    """Who changed what: deployments, stops, secrets, volumes, tokens; and whose token was not accepted.

    What is repeated within a minute is listed once. Calls of functions are not listed.
    """
    settings = running_settings(settings_for(state))
    events = _events(settings, since=since, limit=limit)
    if as_json or follow or not sys.stdout.isatty():
        _print(events, as_json=as_json)
    else:
        rows = [(moment(e.at), _who(e), e.address, e.action, e.object, e.outcome) for e in events]
        show_table("", ("When", "Who", "From", "What", "On", "Outcome"), rows)
    while follow:
        after_id = events[-1].event_id if events else 0
        if fresh := _events(settings, since=since, limit=limit, after_id=after_id, wait_s=WAIT_S):
            _print(fresh, as_json=as_json)
            events = fresh


def _events(settings: Settings, *, since: float, limit: int, after_id: int = 0, wait_s: float = 0.0) -> list[AuditEvent]:
    request = AuditRequest(since=since, limit=limit, after_id=after_id, wait_s=wait_s)
    return list(ask(settings, lambda control: control.Audit(request), timeout_s=TIMEOUT_S).events)


def _who(event: AuditEvent) -> str:
    if not event.actor:
        return "-" if event.address else "this machine"
    return f"{event.actor_name} ({event.actor})" if event.actor_name not in ("", event.actor) else event.actor


def _print(events: Iterable[AuditEvent], *, as_json: bool) -> None:
    for event in events:
        if as_json:
            fields = {field.name: getattr(event, field.name) for field in event.DESCRIPTOR.fields}
            click.echo(json.dumps(fields))
        else:
            where = f" from {event.address}" if event.address else ""
            click.echo(f"{moment(event.at)} {_who(event)}{where}: {event.action} {event.object} {event.outcome}")
