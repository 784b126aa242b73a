"""RPCs about the workspace, the caller's own token, and the client's first contact."""

import hashlib
import hmac
import time
from collections.abc import Callable

import jwt
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from pilotlight.control.environments import Environments
from pilotlight.control.tokens import Tokens
from pilotlight.core import ids
from pilotlight.rpc.framework import Caller

AUTH_TOKEN_TTL_S = 20 * 60


class WorkspaceHandlers:
    def __init__(
        self,
        *,
        tokens: Tokens,
        environments: Environments,
        workspace: str,
        signing_key: bytes,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._environments = environments
        self._workspace = workspace
        self._workspace_id = ids.derived(ids.WORKSPACE, workspace)
        self._auth_key = hmac.digest(signing_key, b"pilotlight auth token v1", hashlib.sha256)
        self._now = now

    async def ClientHello(self, caller: Caller, request: Empty) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(image_builder_version=self._environments.default.image_builder_version)

    async def AuthTokenGet(self, caller: Caller, request: api_pb2.AuthTokenGetRequest) -> api_pb2.AuthTokenGetResponse:
        # ASCII without ">", "?" and "~" has no "-" or "_" in base64url: the JavaScript client decodes plain base64 only.
        claims = {"sub": caller.task_id or caller.token_id, "exp": int(self._now()) + AUTH_TOKEN_TTL_S}
        return api_pb2.AuthTokenGetResponse(token=jwt.encode(claims, self._auth_key, "HS256"))

    async def WorkspaceNameLookup(self, caller: Caller, request: Empty) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=self._workspace, username=self._workspace)

    async def WorkspaceSettings(self, caller: Caller, request: Empty) -> api_pb2.WorkspaceSettingsResponse:
        default = self._environments.default
        return api_pb2.WorkspaceSettingsResponse(
            default_environment_name=default.name, image_builder_version=default.image_builder_version
        )

    async def WorkspaceSetDefaultEnvironment(self, caller: Caller, request: api_pb2.WorkspaceSetDefaultEnvironmentRequest) -> Empty:
        await self._environments.set_default(request.environment_name)
        return Empty()

    async def TokenInfoGet(self, caller: Caller, request: api_pb2.TokenInfoGetRequest) -> api_pb2.TokenInfoGetResponse:
        token = self._tokens.get(caller.token_id)
        return api_pb2.TokenInfoGetResponse(
            token_id=token.token_id,
            token_name=token.name,
            workspace_id=self._workspace_id,
            workspace_name=self._workspace,
            created_at=Timestamp(seconds=int(token.created_at)),
        )

    async def TokenDelete(self, caller: Caller, request: api_pb2.TokenDeleteRequest) -> Empty:
        await self._tokens.revoke(request.token_id)
        return Empty()
