"""RPCs of secrets."""

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.secrets import Secret, Secrets
from pilotlight.rpc.creation import creation_of
from pilotlight.rpc.framework import Caller


def _metadata(secret: Secret) -> api_pb2.SecretMetadata:
    return api_pb2.SecretMetadata(
        name=secret.name,
        creation_info=api_pb2.CreationInfo(created_at=secret.created_at),
        keys=secret.keys,
        environment_name=secret.environment_name,
        last_used_at=secret.last_used_at,
    )


def _item(secret: Secret) -> api_pb2.SecretListItem:
    return api_pb2.SecretListItem(
        label=secret.name,
        created_at=secret.created_at,
        last_used_at=secret.last_used_at,
        environment_name=secret.environment_name,
        secret_id=secret.secret_id,
        metadata=_metadata(secret),
    )


class SecretHandlers:
    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def SecretGetOrCreate(
        self, caller: Caller, request: api_pb2.SecretGetOrCreateRequest
    ) -> api_pb2.SecretGetOrCreateResponse:
        secret = await self._secrets.get_or_create(
            request.environment_name,
            request.deployment_name,
            creation_of(request.object_creation_type),
            request.env_dict,
            required_keys=request.required_keys,
            app_id=request.app_id,
            request_key=caller.idempotency_key,
        )
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.secret_id, metadata=_metadata(secret))

    async def SecretUpdate(self, caller: Caller, request: api_pb2.SecretUpdateRequest) -> Empty:
        await self._secrets.update(request.secret_id, {update.key: update.value for update in request.updates})
        return Empty()

    async def SecretGetInfo(self, caller: Caller, request: api_pb2.SecretGetInfoRequest) -> api_pb2.SecretGetInfoResponse:
        return api_pb2.SecretGetInfoResponse(metadata=_metadata(await self._secrets.get(request.secret_id)))

    async def SecretList(self, caller: Caller, request: api_pb2.SecretListRequest) -> api_pb2.SecretListResponse:
        page = request.pagination
        environment, secrets = await self._secrets.list(request.environment_name, page.created_before, page.max_objects)
        return api_pb2.SecretListResponse(items=[_item(secret) for secret in secrets], environment_name=environment.name)

    async def SecretDelete(self, caller: Caller, request: api_pb2.SecretDeleteRequest) -> Empty:
        await self._secrets.delete(request.secret_id)
        return Empty()
