"""RPCs of proxy tokens, and of the short-lived ones for `modal curl`."""

import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.proxy_tokens import ProxyToken, ProxyTokens
from pilotlight.control.tokens import Tokens
from pilotlight.core import errors
from pilotlight.core.web_tokens import web_token
from pilotlight.rpc.framework import Caller


class ProxyTokenHandlers:
    """Proxy tokens as the client sees them."""

    def __init__(self, proxy_tokens: ProxyTokens, tokens: Tokens, signing_key: bytes, now: Callable[[], float] = time.time) -> None:
        self._proxy_tokens = proxy_tokens
        self._tokens = tokens
        self._signing_key = signing_key
        self._now = now

    async def WebhookTokenCreate(self, caller: Caller, request: api_pb2.WebhookTokenCreateRequest) -> api_pb2.TokenCreateResponse:
        token_id, secret = await self._proxy_tokens.create(request.name, caller.token_id, scoped=request.scoped)
        return api_pb2.TokenCreateResponse(token_id=token_id, token_secret=secret)

    async def WebhookTokenList(self, caller: Caller, request: Empty) -> api_pb2.WebhookTokenListResponse:
        return self._listed(self._proxy_tokens.list())

    async def WebhookTokenListForEnvironment(
        self, caller: Caller, request: api_pb2.WebhookTokenListForEnvironmentRequest
    ) -> api_pb2.WebhookTokenListResponse:
        return self._listed(self._proxy_tokens.valid_in(request.environment_name))

    async def WebhookTokenUpdate(self, caller: Caller, request: api_pb2.WebhookTokenUpdateRequest) -> api_pb2.WebhookToken:
        if not request.HasField("name"):
            return self._info(self._proxy_tokens.get(request.token_id))
        return self._info(await self._proxy_tokens.rename(request.token_id, request.name))

    async def WebhookTokenDelete(self, caller: Caller, request: api_pb2.TokenDeleteRequest) -> Empty:
        await self._proxy_tokens.delete(request.token_id)
        return Empty()

    async def WebhookTokenEnvironmentAdd(self, caller: Caller, request: api_pb2.WebhookTokenEnvironmentAddRequest) -> Empty:
        await self._proxy_tokens.allow(request.token_id, request.environment_id)
        return Empty()

    async def WebhookTokenEnvironmentRemove(self, caller: Caller, request: api_pb2.WebhookTokenEnvironmentRemoveRequest) -> Empty:
        await self._proxy_tokens.disallow(request.token_id, request.environment_id)
        return Empty()

    async def WebhookTokenEnvironmentList(
        self, caller: Caller, request: api_pb2.WebhookTokenEnvironmentListRequest
    ) -> api_pb2.WebhookTokenEnvironmentListResponse:
        return api_pb2.WebhookTokenEnvironmentListResponse(
            environment_ids=sorted(self._proxy_tokens.get(request.token_id).environment_ids)
        )

    async def CurlGetAuthToken(self, caller: Caller, request: api_pb2.CurlAuthTokenRequest) -> api_pb2.CurlAuthTokenResponse:
        host = urlsplit(request.url if "://" in request.url else f"https://{request.url}").hostname
        if not host:
            raise errors.InvalidInput(f"{request.url!r} names no host. Give the whole address of the web function.")
        return api_pb2.CurlAuthTokenResponse(token=web_token(self._signing_key, host, self._now()))

    def _listed(self, tokens: Sequence[ProxyToken]) -> api_pb2.WebhookTokenListResponse:
        return api_pb2.WebhookTokenListResponse(tokens=[self._info(token) for token in tokens])

    def _info(self, token: ProxyToken) -> api_pb2.WebhookToken:
        return api_pb2.WebhookToken(
            token_id=token.token_id,
            created_at=token.created_at,
            scoped=token.scoped,
            name=token.name,
            created_by=api_pb2.UserIdentity(user_id=token.created_by, username=self._tokens.name_of(token.created_by)),
        )
