"""`pilotlight up` and `pilotlight down`."""

from collections.abc import Sequence
from pathlib import Path

import click

from pilotlight.cli.options import settings_for, state_flag, state_option
from pilotlight.config import Settings
from pilotlight.node import strict
from pilotlight.supervisor.start import bring_down, bring_up


def _announce(settings: Settings, seconds: float, notes: Sequence[str]) -> None:
    flag = state_flag(settings)
    for text in notes:
        click.echo(text)
    click.echo(f"Pilotlight is ready ({seconds:.1f} s): API {settings.api}, web {settings.web}")
    click.echo(f'  point this shell at it     eval "$(pilotlight env{flag})"')
    click.echo("  run a program              modal run examples/hello.py")
    click.echo(f"  see what it does           pilotlight status{flag}")
    click.echo(f"  stop it                    pilotlight down{flag}")


class Rate(click.ParamType):
    """Requests a second, or "off", which the settings call 0."""

    name = "rate"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "off":
            return 0
        if not str(value).isdecimal() or int(value) == 0:
            self.fail(f"{value!r} is neither a number of requests a second nor 'off'.", param, ctx)
        return int(value)


RATE = Rate()


@click.command()
@click.option("--detach", is_flag=True, help="Return once it is ready and leave it running.")
@click.option("--api", metavar="HOST:PORT", help="Where the gRPC API listens (default 127.0.0.1:9900).")
@click.option("--web", metavar="HOST:PORT", help="Where HTTP listens (default 127.0.0.1:9980).")
@click.option("--insecure", is_flag=True, default=None, help="Allow plain HTTP on addresses that other machines can reach.")
@click.option(
    "--webhook-allow-private", is_flag=True, default=None, help="Allow completion webhooks to loopback and private addresses."
)
@click.option("--tls-cert", metavar="FILE", help="PEM certificate chain: API and web speak TLS then, on any address.")
@click.option("--tls-key", metavar="FILE", help="PEM key of that certificate.")
@click.option("--domain", metavar="NAME", help="Web functions live at <label>.NAME (default localhost).")
@click.option("--tunnel-tls", metavar="HOST:PORT", help="Where modal.forward is reached (default 127.0.0.1:9943).")
@click.option("--tunnel-ports", metavar="N-N", help="Its ports without TLS, at the same address (default 20000-20999).")
@click.option("--web-rate-limit", metavar="N|off", type=RATE, help="Requests a second of one web function (default 200).")
@click.option("--web-workspace-rate-limit", metavar="N|off", type=RATE, help="Of all web functions together (default off).")
@click.option(
    "--isolation", type=click.Choice(["ordinary", "strict"]), help="strict: gVisor between functions and this machine's kernel."
)
@click.option(
    "--warm-memory",
    "warm_memory_mib",
    metavar="MIB",
    type=click.IntRange(min=0),
    help="Memory for processes that containers are forked from (default 0: a tenth of what the node offers).",
)
@click.option("--gpus", metavar="KIND:N[,…]", help="GPUs that this machine is said to have, or none (default: those it has).")
@click.option("--reject-unplaceable", is_flag=True, default=None, help="Inputs that no node could ever run fail at once.")
@click.option("--gpu-share", metavar="KIND=N[,…]", help="Let so many containers share a GPU of a kind (default: one has it alone).")
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, help="Say of this node where it is: region=us-east, cloud=aws."
)
@state_option
def up(detach: bool, state: Path | None, domain: str | None, labels: tuple[str, ...], **flags: object) -> None:
    """Start the platform on this machine."""
    settings = settings_for(state, web_domain=domain, node_labels=",".join(labels) or None, **flags)
    if settings.isolation == "strict" and (problem := strict.missing()):
        raise click.ClickException(problem)
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
