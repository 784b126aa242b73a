"""`pilotlight env`: what the official client needs to find this platform, as variables or as a profile."""

from pathlib import Path

import click

from pilotlight.cli import profiles
from pilotlight.cli.certificates import certified_host
from pilotlight.cli.options import settings_for, state_flag, state_option
from pilotlight.config import Settings, modal_config_path
from pilotlight.core.errors import NotFound
from pilotlight.supervisor.addresses import Address, parse
from pilotlight.supervisor.start import running_settings


def server_url(settings: Settings) -> str:
    """The URL for clients on this machine; an API that listens everywhere is reached by loopback.

    With TLS it names what the certificate was made out to, since that is what clients check: it has to resolve to this machine.
    """
    api = parse(settings.api, "--api")
    if api.is_wildcard:
        api = Address("::1" if api.is_ipv6 else "127.0.0.1", api.port)
    if settings.tls_cert is None:
        return f"http://{api}"
    return f"https://{certified_host(settings.tls_cert, api.host)}:{api.port}"


def _first_token(settings: Settings) -> tuple[str, str]:
    try:
        token_id, _, secret = settings.first_token_path.read_text().strip().partition(":")
    except FileNotFoundError as exc:
        raise NotFound(
            f"there is no token in {settings.state} yet: it is made at first start. "
            f"Start it: pilotlight up --detach{state_flag(settings)}"
        ) from exc
    except PermissionError as exc:
        raise NotFound(f"{settings.first_token_path} belongs to another user; run this command as who started Pilotlight") from exc
    return token_id, secret


@click.command()
@click.option("--write-profile", metavar="NAME", help="Add a profile to ~/.modal.toml instead, so that no variable is needed.")
@click.option("--activate", is_flag=True, help="With --write-profile: make it the one that plain `modal` uses.")
@state_option
def env(write_profile: str | None, activate: bool, state: Path | None) -> None:
    """Print what points the modal client here.

    That is four lines for the shell: eval "$(pilotlight env)"
    """
    settings = running_settings(settings_for(state))
    token_id, secret = _first_token(settings)
    if write_profile is None:
        click.echo(f"export MODAL_SERVER_URL={server_url(settings)}")
        click.echo(f"export MODAL_TOKEN_ID={token_id}")
        click.echo(f"export MODAL_TOKEN_SECRET={secret}")
        click.echo("export MODAL_DISABLE_API_PROXY=1")
        return
    values = {"server_url": server_url(settings), "token_id": token_id, "token_secret": secret, "disable_api_proxy": True}
    _write_profile(write_profile, values, activate=activate)


def _write_profile(name: str, values: dict[str, str | bool], *, activate: bool) -> None:
    path = modal_config_path()
    text = path.read_text() if path.exists() else ""
    changed, is_active = profiles.with_profile(text, name, values, path)
    if activate and not is_active:
        changed, is_active = profiles.activated(changed, name, path), True
    backup = profiles.write(path, changed)
    click.echo(f"Profile {name} is in {path}" + (f" (the former file is {backup})." if backup else "."))
    if is_active:
        click.echo("Plain `modal` uses it now, in every terminal.")
    else:
        click.echo(f"Use it everywhere with `modal profile activate {name}`, or for one command with MODAL_PROFILE={name}.")
