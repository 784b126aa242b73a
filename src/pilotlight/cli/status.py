"""`pilotlight status`: what runs, what waits and why, and where plain `modal` would go.

With `--json`, standard output is one JSON document and nothing else.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pilotlight.cli import profiles
from pilotlight.cli.control import ask, not_running
from pilotlight.cli.environment import server_url
from pilotlight.cli.options import settings_for, state_flag, state_option
from pilotlight.config import Settings, modal_config_path, modal_environment
from pilotlight.core.errors import PilotlightError
from pilotlight.supervisor import lock
from pilotlight.supervisor.start import running_settings
from pilotlight.supervisor.watch import PROCESSES_FILE
from pilotlight.wire.platform_pb2 import StatusRequest

NOT_RUNNING, NO_ANSWER = 3, 1

Document = dict[str, Any]

# Title, key in the document, and header → field for each table of the server's document.
TABLES: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    (
        "Nodes",
        "nodes",
        {
            "Node": "name",
            "State": "state",
            "mCPU": "milli_cpu",
            "MiB": "memory_mib",
            "GPUs": "gpus",
            "Labels": "labels",
            "Containers": "containers",
        },
    ),
    ("GPUs", "gpus", {"GPU": "uuid", "Kind": "kind", "Node": "node_name", "State": "state", "By": "used_by"}),
    (
        "Apps",
        "apps",
        {
            "App": "app_id",
            "Name": "name",
            "Environment": "environment",
            "State": "state",
            "Created": "created_at",
            "Functions": "functions",
            "Containers": "containers",
        },
    ),
    (
        "Containers",
        "containers",
        {
            "Container": "task_id",
            "App": "app_name",
            "Function": "function",
            "State": "state",
            "Node": "node_name",
            "Started": "started_at",
            "Inputs": "inputs",
        },
    ),
    (
        "Templates",
        "templates",
        {"Image": "image_id", "Node": "node_name", "MiB": "memory_mib", "Modules": "modules", "Since": "ready_at"},
    ),
    ("Crashing", "crashing", {"Function": "function", "App": "app_name", "In a row": "crashes", "Why": "why"}),
    (
        "Not isolated: killed before they began",
        "refused",
        {"Container": "container", "Node": "node_name", "At": "refused_at", "Why": "why"},
    ),
    ("Waiting", "waiting", {"Function": "function", "App": "app_name", "Inputs": "inputs", "Why": "why"}),
    (
        "Schedules",
        "schedules",
        {
            "Function": "function",
            "App": "app_name",
            "Schedule": "schedule",
            "Next": "next_at",
            "Last": "last_at",
            "Missed": "missed",
        },
    ),
    ("Image builds", "builds", {"Image": "image_id", "State": "state", "Step": "step"}),
)


def _processes(settings: Settings) -> Document:
    try:
        return json.loads((settings.run_dir / PROCESSES_FILE).read_text())
    except (OSError, ValueError):  # gone since we looked
        return {}


def _modal_pointing(settings: Settings) -> Document:
    path = modal_config_path()
    try:
        found = profiles.pointing(profiles.parse(path.read_text(), path) if path.exists() else {}, modal_environment())
    except (PilotlightError, OSError) as exc:
        return {"error": str(exc), "is_this_platform": False}
    return asdict(found) | {"is_this_platform": found.server_url.rstrip("/") == server_url(settings)}


def gather(settings: Settings) -> Document:
    """The document of `--json`. With "error" where the server does not answer: then what only it knows is missing."""
    document: Document = {
        "running": True,
        "state": str(settings.state),
        "api": settings.api,
        "web": settings.web,
        "processes": _processes(settings),
        "modal": _modal_pointing(settings),
    }
    try:
        reply = ask(settings, lambda control: control.Status(StatusRequest()))
    except PilotlightError as exc:
        return {**document, "error": str(exc)}
    return {**json.loads(reply.json), **document}


def _show(document: Document, flag: str) -> None:
    from pilotlight.cli.tables import lasting, moment, show_table

    processes = ", ".join(f"{name} {pid or 'restarting'}" for name, pid in document["processes"].items())
    uptime = f", up for {lasting(document['uptime_s'])}" if "uptime_s" in document else ""
    click.echo(f"Pilotlight {document.get('version', '')} runs{uptime}: API {document['api']}, web {document['web']}")
    click.echo(f"Processes: {processes}")
    modal = document["modal"]
    if modal["is_this_platform"]:
        click.echo(f"Plain `modal` points here ({modal['because']}).")
    elif "error" in modal:
        click.echo(f"Plain `modal` can't start: {modal['error']}")
    else:
        here = f'eval "$(pilotlight env{flag})"'
        click.echo(f"Plain `modal` points to {modal['server_url']} ({modal['because']}), not here: {here}")
    for title, key, columns in TABLES:
        rows = document.get(key, [])
        if rows:
            click.echo()
            show_table(
                title, list(columns), [[_cell(name, row.get(name, ""), moment) for name in columns.values()] for row in rows]
            )
        elif key in document and key in ("nodes", "apps", "containers"):
            click.echo(f"No {key}.")


def _cell(name: str, value: Any, moment: Any) -> object:
    return moment(value) if name.endswith("_at") and isinstance(value, int | float) else value


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@state_option
def status(as_json: bool, state: Path | None) -> None:
    """Show what runs, and what waits for what. Exit code 3 when the platform is not running."""
    settings = running_settings(settings_for(state))
    if lock.holder(settings) is None:
        if as_json:
            click.echo(json.dumps({"running": False, "state": str(settings.state)}))
        click.echo(str(not_running(settings)), err=True)
        sys.exit(NOT_RUNNING)
    document = gather(settings)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        _show(document, state_flag(settings))
    if "error" in document:
        click.echo(f"pilotlight: {document['error']}", err=True)
        sys.exit(NO_ANSWER)
