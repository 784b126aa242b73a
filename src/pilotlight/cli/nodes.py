"""`pilotlight node drain` and `undrain`: take a machine out of service, and put it back."""

from pathlib import Path

import click

from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_flag, state_option
from pilotlight.supervisor.start import running_settings
from pilotlight.wire.platform_pb2 import NodeDrainRequest


@click.group()
def node() -> None:
    """Take nodes out of service and put them back; `pilotlight status` lists them."""


@node.command()
@click.argument("node_name", metavar="[NODE]", default="")
@state_option
def drain(node_name: str, state: Path | None) -> None:
    """Have all containers of NODE (name or id; the only one unless given) end, and start nothing new there.

    What they work on is interrupted, their exit hooks have 30 s, and their inputs go to other nodes, or wait for `undrain`.
    """
    settings = running_settings(settings_for(state))
    reply = ask(settings, lambda control: control.NodeDrain(NodeDrainRequest(node=node_name)))
    click.echo(f"{reply.name} ({reply.node_id}) takes nothing new; {reply.containers} containers were told to end.")
    click.echo(f"`pilotlight status{state_flag(settings)}` says when they are gone.")


@node.command()
@click.argument("node_name", metavar="[NODE]", default="")
@state_option
def undrain(node_name: str, state: Path | None) -> None:
    """Let NODE (name or id; the only one unless given) take containers again."""
    settings = running_settings(settings_for(state))
    reply = ask(settings, lambda control: control.NodeDrain(NodeDrainRequest(node=node_name, undrain=True)))
    click.echo(f"{reply.name} ({reply.node_id}) takes containers again.")
