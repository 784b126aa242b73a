"""Pilotlight's own service for its command line and its edge, on the inner listener: who may open that socket owns the state."""

import json
from dataclasses import asdict
from typing import Any

from grpclib import GRPCError
from grpclib.const import Handler

from pilotlight.control.audit import Audit
from pilotlight.control.backups import Backups
from pilotlight.control.cordons import Cordons
from pilotlight.control.garbage import Garbage
from pilotlight.control.overview import Overview
from pilotlight.control.proxy_tokens import ProxyTokens
from pilotlight.control.secrets import Secrets
from pilotlight.control.tokens import Tokens
from pilotlight.control.volumes import Volumes
from pilotlight.control.web import Web
from pilotlight.control.webhooks import Webhooks
from pilotlight.core import errors
from pilotlight.rpc.auditing import AuditControl, observed_control
from pilotlight.rpc.backups import BackupControl
from pilotlight.rpc.cordons import CordonControl
from pilotlight.rpc.framework import status_of
from pilotlight.rpc.web import WebControl
from pilotlight.rpc.webhooks import WebhookControl
from pilotlight.wire import platform_grpc, platform_pb2


class ControlService(WebhookControl, WebControl, CordonControl, AuditControl, BackupControl, platform_grpc.ControlBase):
    """Status, tokens, metrics."""

    def __init__(
        self,
        overview: Overview,
        tokens: Tokens,
        secrets: Secrets,
        garbage: Garbage,
        webhooks: Webhooks,
        web: Web,
        proxy_tokens: ProxyTokens,
        volumes: Volumes,
        cordons: Cordons,
        audit: Audit,
        backups: Backups,
    ) -> None:
        self._overview = overview
        self._tokens = tokens
        self._secrets = secrets
        self._garbage = garbage
        self._webhooks = webhooks
        self._web = web
        self._proxy_tokens = proxy_tokens
        self._volumes = volumes
        self._cordons = cordons
        self._audit = audit
        self._backups = backups

    def __mapping__(self) -> dict[str, Handler]:
        return observed_control(self._audit, super().__mapping__())

    async def Status(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(platform_pb2.StatusReply(json=json.dumps(self._overview.document())))

    async def Metrics(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(platform_pb2.MetricsReply(text=self._overview.metrics()))

    async def VolumePath(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            path = await self._volumes.path(request.environment_name, request.name)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        await stream.send_message(platform_pb2.VolumePathReply(path=str(path)))

    async def TokenCreate(self, stream: Any) -> None:
        request = await stream.recv_message()
        token_id, secret = await self._tokens.create(request.name)
        await stream.send_message(platform_pb2.TokenCreateReply(token_id=token_id, token_secret=secret))

    async def TokenList(self, stream: Any) -> None:
        await stream.recv_message()
        reply = platform_pb2.TokenListReply()
        for token in self._tokens.list():
            reply.tokens.add(
                token_id=token.token_id,
                name=token.name,
                created_at=token.created_at,
                revoked_at=token.revoked_at or 0.0,
                last_used_at=token.last_used_at or 0.0,
            )
        await stream.send_message(reply)

    async def TokenRevoke(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            await self._tokens.revoke(request.token_id)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        await stream.send_message(platform_pb2.TokenRevokeReply())

    async def RotateSecretsKey(self, stream: Any) -> None:
        await stream.recv_message()
        try:
            done = await self._secrets.rotate_key()
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        reply = platform_pb2.RotateSecretsKeyReply(resealed=done.resealed, unreadable=done.unreadable, made_key=done.made_key)
        await stream.send_message(reply)

    async def Collect(self, stream: Any) -> None:
        request = await stream.recv_message()
        kinds = await self._garbage.collect(dry_run=request.dry_run)
        await stream.send_message(platform_pb2.CollectReply(kinds=[platform_pb2.Collected(**asdict(kind)) for kind in kinds]))
