"""`pilotlight up` and `pilotlight down`."""

from pathlib import Path

import click

from pilotlight.cli.options import settings_for, state_flag, state_option
from pilotlight.config import Settings
from pilotlight.supervisor.start import bring_down, bring_up


def _announce(settings: Settings, seconds: float) -> None:
    flag = state_flag(settings)
    click.echo(f"Pilotlight is ready ({seconds:.1f} s): API {settings.api}, web {settings.web}")
    click.echo(f'  point this shell at it     eval "$(pilotlight env{flag})"')
    click.echo("  run a program              modal run examples/hello.py")
    click.echo(f"  see what it does           pilotlight status{flag}")
    click.echo(f"  stop it                    pilotlight down{flag}")


@click.command()
@click.option("--detach", is_flag=True, help="Return once it is ready and leave it running.")
@click.option("--api", metavar="HOST:PORT", help="Where the gRPC API listens (default 127.0.0.1:9900).")
@click.option("--web", metavar="HOST:PORT", help="Where HTTP listens (default 127.0.0.1:9980).")
@click.option("--insecure", is_flag=True, default=None, help="Allow plain HTTP on addresses that other machines can reach.")
@click.option(
    "--webhook-allow-private", is_flag=True, default=None, help="Allow completion webhooks to loopback and private addresses."
)
@state_option
def up(
    detach: bool, api: str | None, web: str | None, insecure: bool | None, webhook_allow_private: bool | None, state: Path | None
) -> None:
    """Start the platform on this machine."""
    settings = settings_for(state, api=api, web=web, insecure=insecure, webhook_allow_private=webhook_allow_private)
    running = bring_up(settings, detach=detach, announce=_announce)
    if running is not None:
        click.echo(f"Pilotlight is already running (pid {running.pid}): API {running.api}, web {running.web}")


@click.command()
@state_option
def down(state: Path | None) -> None:
    """Stop the platform.

    Deployed apps and data stay, and are back with the next `up`.
    """
    click.echo(bring_down(settings_for(state)))
