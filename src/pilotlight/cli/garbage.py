"""`pilotlight gc`: what nothing refers to any more, and how much space it takes."""

from pathlib import Path

import click

from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_option
from pilotlight.cli.tables import show_table
from pilotlight.supervisor.start import running_settings
from pilotlight.wire.platform_pb2 import CollectRequest

TIMEOUT_S = 900.0


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@state_option
def gc(*, dry_run: bool, state: Path | None) -> None:
    """Remove what nothing refers to any more. The platform does it by itself once an hour."""
    settings = running_settings(settings_for(state))
    reply = ask(settings, lambda control: control.Collect(CollectRequest(dry_run=dry_run)), timeout_s=TIMEOUT_S)
    rows = [
        (kind.kind, str(kind.removed), _mib(kind.removed_bytes), str(kind.kept), _mib(kind.kept_bytes), kind.problem)
        for kind in reply.kinds
    ]
    gone = "Would go" if dry_run else "Gone"
    show_table("", ("What", gone, "MiB", "Stays", "MiB", "Not looked at"), rows)
    total = _mib(sum(kind.removed_bytes for kind in reply.kinds))
    click.echo(f"{total} MiB would be freed." if dry_run else f"{total} MiB are free again.")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f}"
