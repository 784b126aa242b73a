"""`pilotlight secret rotate-key`. Making and deleting secrets is what `modal secret` does."""

from pathlib import Path

import click

from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_option
from pilotlight.supervisor.start import running_settings
from pilotlight.wire.platform_pb2 import RotateSecretsKeyRequest

TIMEOUT_S = 600.0


@click.group()
def secret() -> None:
    """The key that secrets are sealed with."""


@secret.command("rotate-key")
@state_option
def rotate_key(state: Path | None) -> None:
    """Seal all secrets anew under a new key, while the platform runs."""
    settings = running_settings(settings_for(state))
    done = ask(settings, lambda control: control.RotateSecretsKey(RotateSecretsKeyRequest()), timeout_s=TIMEOUT_S)
    where = settings.secrets_key_file or settings.keys_dir / "secrets.key"
    click.echo(f"{done.resealed} secrets are sealed with the new key in {where}. Back it up: without it they can't be read.")
    if not done.made_key:
        click.echo("The older keys in that file are needed no more: take them out.")
    if done.unreadable:
        click.echo(
            f"{done.unreadable} secrets were sealed with a key that is lost, and stay as they are: create them again, or put that "
            "key back behind the newest one and restart. `pilotlight logs server` names them (secret_unreadable).",
            err=True,
        )
