"""The command line: `pilotlight up`, `down`, `status` and what COMMANDS names.

Each command lives in a module that is imported when it is used, so that `pilotlight up` does not pay for tables and gRPC.
Exit codes: 0 done, 1 it went wrong (the message says what to do), 2 wrong usage, 3 the platform is not running.
"""

import importlib
from typing import Any

import click

from pilotlight.core.errors import PilotlightError

COMMANDS = {
    "up": "lifecycle",
    "down": "lifecycle",
    "status": "status",
    "logs": "logs",
    "env": "environment",
    "token": "tokens",
    "proxy-token": "proxy_tokens",
    "secret": "secrets",
    "gc": "garbage",
    "webhook": "webhooks",
    "volume": "volumes",
    "audit": "audit",
    "backup": "backups",
    "restore": "backups",
    "doctor": "doctor",
    "image": "images",
    "node": "nodes",
}


class Commands(click.Group):
    """Finds commands by COMMANDS, in its order, and shows errors that are meant for people as one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pilotlight.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PilotlightError as exc:
            click.echo(f"pilotlight: {exc}", err=True)
            ctx.exit(1)
        except PermissionError as exc:
            click.echo(f"pilotlight: {exc.filename} belongs to another user. Run this as who started Pilotlight (sudo?)", err=True)
            ctx.exit(1)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pilotlight")
def main() -> None:
    """Pilotlight: run unmodified Modal programs on your own machine.

    `pilotlight up --detach` starts it, `eval "$(pilotlight env)"` points the modal client at it.
    """
