"""`pilotlight token create | list | revoke`."""

from pathlib import Path

import click

from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_option
from pilotlight.cli.tables import moment, show_table
from pilotlight.supervisor.start import running_settings
from pilotlight.wire.platform_pb2 import TokenCreateRequest, TokenListRequest, TokenRevokeRequest


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that clients sign in with."""


@token.command()
@click.argument("name", default="")
@state_option
def create(name: str, state: Path | None) -> None:
    """Make a token. Its secret is shown once, as lines for `eval`."""
    settings = running_settings(settings_for(state))
    made = ask(settings, lambda control: control.TokenCreate(TokenCreateRequest(name=name)))
    click.echo(f"export MODAL_TOKEN_ID={made.token_id}")
    click.echo(f"export MODAL_TOKEN_SECRET={made.token_secret}")
    click.echo("# The secret can't be shown again. Only its hash is kept.", err=True)


@token.command("list")
@state_option
def list_tokens(state: Path | None) -> None:
    """List tokens, without their secrets."""
    settings = running_settings(settings_for(state))
    reply = ask(settings, lambda control: control.TokenList(TokenListRequest()))
    rows = [(t.token_id, t.name, moment(t.created_at), moment(t.last_used_at), moment(t.revoked_at)) for t in reply.tokens]
    show_table("", ("Token", "Name", "Created", "Last used", "Revoked"), rows)


@token.command()
@click.argument("token_id")
@state_option
def revoke(token_id: str, state: Path | None) -> None:
    """Revoke a token: from now on calls with it fail."""
    settings = running_settings(settings_for(state))
    ask(settings, lambda control: control.TokenRevoke(TokenRevokeRequest(token_id=token_id)))
    click.echo(f"{token_id} is revoked.")
