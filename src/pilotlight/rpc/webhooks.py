"""Completion webhooks in our own service: for the command line, since Modal's clients have no word for them."""

from typing import Any

from grpclib import GRPCError

from pilotlight.control.webhooks import Webhook, Webhooks
from pilotlight.core import errors
from pilotlight.rpc.framework import status_of
from pilotlight.wire import platform_pb2


class WebhookControl:
    """The methods of the Control service that are about webhooks."""

    _webhooks: Webhooks

    async def WebhookAdd(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            webhook, secret = await self._webhooks.add(request.app, request.function, request.environment, request.url)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        environment = self._webhooks.environment_name(webhook)
        await stream.send_message(platform_pb2.WebhookAddReply(webhook=_info(webhook, environment), secret=secret))

    async def WebhookList(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            webhooks = self._webhooks.list(request.environment)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        found = [_info(webhook, self._webhooks.environment_name(webhook)) for webhook in webhooks]
        await stream.send_message(platform_pb2.WebhookListReply(webhooks=found))

    async def WebhookRemove(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            dropped = await self._webhooks.remove(request.webhook_id)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        await stream.send_message(platform_pb2.WebhookRemoveReply(dropped=dropped))

    async def WebhookDeliveries(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            rows = await self._webhooks.deliveries(request.webhook_id, request.limit)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        await stream.send_message(platform_pb2.WebhookDeliveriesReply(deliveries=[_delivery(row) for row in rows]))

    async def WebhookRedeliver(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            await self._webhooks.redeliver(request.delivery_id)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        await stream.send_message(platform_pb2.WebhookRedeliverReply())


def _info(webhook: Webhook, environment: str) -> platform_pb2.WebhookInfo:
    return platform_pb2.WebhookInfo(
        webhook_id=webhook.webhook_id,
        app=webhook.app,
        function=webhook.function,
        environment=environment,
        url=webhook.url,
        created_at=webhook.created_at,
        gone_at=webhook.gone_at or 0.0,
    )


def _delivery(row: Any) -> platform_pb2.WebhookDelivery:
    return platform_pb2.WebhookDelivery(
        delivery_id=row.delivery_id,
        webhook_id=row.webhook_id,
        function_call_id=row.call_id,
        state=row.state,
        event=row.event or "",
        attempts=row.attempts,
        created_at=row.created_at,
        due_at=row.due_at,
        finished_at=row.finished_at or 0.0,
        status=row.status or 0,
        problem=row.problem or "",
    )
