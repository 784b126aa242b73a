"""`pilotlight webhook add | list | remove | deliveries | redeliver`."""

from pathlib import Path

import click

from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_option
from pilotlight.cli.tables import moment, show_table
from pilotlight.supervisor.start import running_settings
from pilotlight.wire.platform_pb2 import (
    WebhookAddRequest,
    WebhookDeliveriesRequest,
    WebhookDelivery,
    WebhookInfo,
    WebhookListRequest,
    WebhookRedeliverRequest,
    WebhookRemoveRequest,
)

SHOWN_DELIVERIES = 50


@click.group()
def webhook() -> None:
    """Tell a URL of one's own when function calls end."""


@webhook.command()
@click.argument("url")
@click.option("--app", required=True, help="Name of the app. It need not be deployed yet, and may be deployed anew.")
@click.option("--function", default="", help="One function of it: NAME, CLASS or CLASS.METHOD (default: all).")
@click.option("--env", "environment", default="", help="Environment of the app (default: the default one).")
@state_option
def add(url: str, app: str, function: str, environment: str, state: Path | None) -> None:
    """POST to URL when a call of an app ends. The secret that signs is shown once."""
    settings = running_settings(settings_for(state))
    request = WebhookAddRequest(app=app, function=function, environment=environment, url=url)
    made = ask(settings, lambda control: control.WebhookAdd(request))
    click.echo(f"{made.webhook.webhook_id}")
    click.echo(f"{made.secret}")
    click.echo("# The second line is the secret that signs. It can't be shown again.", err=True)
    if url.startswith("http://"):
        click.echo("# This URL is not https: results travel in the clear.", err=True)


@webhook.command("list")
@click.option("--env", "environment", default="", help="Only those of this environment.")
@state_option
def list_webhooks(environment: str, state: Path | None) -> None:
    """List webhooks, without their secrets."""
    settings = running_settings(settings_for(state))
    reply = ask(settings, lambda control: control.WebhookList(WebhookListRequest(environment=environment)))
    rows = [
        (w.webhook_id, _covered(w), w.url + (" (gone: 410)" if w.gone_at else ""), moment(w.created_at)) for w in reply.webhooks
    ]
    show_table("", ("Webhook", "Calls of", "URL", "Created"), rows)


@webhook.command()
@click.argument("webhook_id")
@state_option
def remove(webhook_id: str, state: Path | None) -> None:
    """Remove a webhook and its deliveries, made or not."""
    settings = running_settings(settings_for(state))
    reply = ask(settings, lambda control: control.WebhookRemove(WebhookRemoveRequest(webhook_id=webhook_id)))
    dropped = f" {reply.dropped} deliveries that waited will not be made." if reply.dropped else ""
    click.echo(f"{webhook_id} is removed.{dropped}")


@webhook.command()
@click.argument("webhook_id", default="")
@click.option("--limit", type=click.IntRange(1, 1000), default=SHOWN_DELIVERIES, show_default=True, help="How many, newest first.")
@state_option
def deliveries(webhook_id: str, limit: int, state: Path | None) -> None:
    """List the last deliveries, of one webhook or of all."""
    settings = running_settings(settings_for(state))
    request = WebhookDeliveriesRequest(webhook_id=webhook_id, limit=limit)
    reply = ask(settings, lambda control: control.WebhookDeliveries(request))
    if not reply.deliveries:
        click.echo("There are no deliveries: no call of such an app has ended in the last 7 days.", err=True)
    for delivery in reply.deliveries:
        click.echo(f"{delivery.delivery_id}  {delivery.function_call_id}  {moment(delivery.created_at)}")
        click.echo(f"  {told(delivery)}")


@webhook.command()
@click.argument("delivery_id")
@state_option
def redeliver(delivery_id: str, state: Path | None) -> None:
    """Send a delivery again, under its old id."""
    settings = running_settings(settings_for(state))
    ask(settings, lambda control: control.WebhookRedeliver(WebhookRedeliverRequest(delivery_id=delivery_id)))
    click.echo(f"{delivery_id} will be sent now. `pilotlight webhook deliveries` shows what came of it.")


def _covered(webhook: WebhookInfo) -> str:
    """ "app", "app.function", with the environment."""
    return ".".join(filter(None, (webhook.app, webhook.function))) + f" ({webhook.environment})"


def told(delivery: WebhookDelivery) -> str:
    """ "function_call.completed: delivered at attempt 2 (204)"."""
    event = delivery.event or "end of the call"
    answer = " ".join(filter(None, (str(delivery.status or ""), delivery.problem)))
    if delivery.state == "pending" and not delivery.attempts:
        return f"{event}: due {moment(delivery.due_at)}"
    if delivery.state == "pending":
        return f"{event}: attempt {delivery.attempts} failed ({answer}); next {moment(delivery.due_at)}"
    when = f"at attempt {delivery.attempts}" if delivery.attempts else "before an attempt"
    return f"{event}: {delivery.state} {when} ({answer})"
