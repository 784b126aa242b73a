"""`pilotlight volume path`: where the files of a volume are, for those who look into it, back it up or fill it by other means."""

from pathlib import Path

import click

from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_option
from pilotlight.supervisor.start import running_settings
from pilotlight.wire.platform_pb2 import VolumePathRequest


@click.group()
def volume() -> None:
    """Find the files of volumes on this machine; `modal volume` does everything else."""


@volume.command()
@click.argument("name")
@click.option("--env", "environment", default="", help="Environment of the volume; the default one unless given.")
@state_option
def path(name: str, environment: str, state: Path | None) -> None:
    """Print the directory that holds the files of the volume NAME."""
    settings = running_settings(settings_for(state))
    request = VolumePathRequest(name=name, environment_name=environment)
    click.echo(ask(settings, lambda control: control.VolumePath(request)).path)
