"""What the edge and the command line ask of the server about web functions, on the inner listener."""

from typing import Any

from grpclib import GRPCError

from pilotlight.control.proxy_tokens import ProxyTokens
from pilotlight.control.web import Web
from pilotlight.core import errors
from pilotlight.rpc.framework import status_of
from pilotlight.wire import platform_pb2


class WebControl:
    """The methods of the Control service that are about web functions: parameters of classes, and proxy tokens."""

    _web: Web
    _proxy_tokens: ProxyTokens

    async def WebBind(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            function_id = await self._web.bind(request.function_id, request.parameters)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        await stream.send_message(platform_pb2.WebBindReply(function_id=function_id))

    async def ProxyTokenCreate(self, stream: Any) -> None:
        request = await stream.recv_message()
        token_id, secret = await self._proxy_tokens.create(request.name, "")
        await stream.send_message(platform_pb2.TokenCreateReply(token_id=token_id, token_secret=secret))

    async def ProxyTokenList(self, stream: Any) -> None:
        await stream.recv_message()
        reply = platform_pb2.TokenListReply()
        for token in self._proxy_tokens.list():
            reply.tokens.add(token_id=token.token_id, name=token.name, created_at=token.created_at)
        await stream.send_message(reply)

    async def ProxyTokenRevoke(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            await self._proxy_tokens.delete(request.token_id)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        await stream.send_message(platform_pb2.TokenRevokeReply())
