"""`pilotlight proxy-token create | list | revoke`."""

from pathlib import Path

import click

from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_option
from pilotlight.cli.tables import moment, show_table
from pilotlight.supervisor.start import running_settings
from pilotlight.wire.platform_pb2 import TokenCreateRequest, TokenListRequest, TokenRevokeRequest


@click.group("proxy-token")
def proxy_token() -> None:
    """Make, list and revoke the tokens that web functions with requires_proxy_auth ask for."""


@proxy_token.command()
@click.argument("name", default="")
@state_option
def create(name: str, state: Path | None) -> None:
    """Make a proxy token. Its secret is shown once."""
    settings = running_settings(settings_for(state))
    made = ask(settings, lambda control: control.ProxyTokenCreate(TokenCreateRequest(name=name)))
    click.echo(f"Modal-Key: {made.token_id}")
    click.echo(f"Modal-Secret: {made.token_secret}")
    click.echo("# Send both as headers. The secret can't be shown again. Only its hash is kept.", err=True)


@proxy_token.command("list")
@state_option
def list_tokens(state: Path | None) -> None:
    """List proxy tokens, without their secrets."""
    settings = running_settings(settings_for(state))
    reply = ask(settings, lambda control: control.ProxyTokenList(TokenListRequest()))
    show_table("", ("Proxy token", "Name", "Created"), [(t.token_id, t.name, moment(t.created_at)) for t in reply.tokens])


@proxy_token.command()
@click.argument("token_id")
@state_option
def revoke(token_id: str, state: Path | None) -> None:
    """Revoke a proxy token: from now on requests with it are refused."""
    settings = running_settings(settings_for(state))
    ask(settings, lambda control: control.ProxyTokenRevoke(TokenRevokeRequest(token_id=token_id)))
    click.echo(f"{token_id} is revoked.")
