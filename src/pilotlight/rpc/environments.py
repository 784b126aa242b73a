"""RPCs of environments."""

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.environments import Environment, Environments
from pilotlight.core.errors import NotBuilt
from pilotlight.rpc.framework import Caller

_MAY_CREATE = (api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING, api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS)


def _metadata(environment: Environment) -> api_pb2.EnvironmentMetadata:
    return api_pb2.EnvironmentMetadata(
        name=environment.name,
        settings=api_pb2.EnvironmentSettings(
            image_builder_version=environment.image_builder_version, webhook_suffix=environment.web_suffix
        ),
    )


def _item(environment: Environment) -> api_pb2.EnvironmentListItem:
    return api_pb2.EnvironmentListItem(
        name=environment.name,
        webhook_suffix=environment.web_suffix,
        created_at=environment.created_at,
        default=environment.is_default,
        environment_id=environment.environment_id,
        image_builder_version=environment.builder_override,
    )


def _refuse_roles(request: api_pb2.EnvironmentCreateRequest) -> None:
    if request.is_managed or request.environment_type or request.default_member_role or request.default_member_role_str:
        raise NotBuilt(
            "Restricted and public environments are not built yet in Pilotlight: whoever has a token may use all environments. "
            "Leave --restricted, --public and --default-role away."
        )


def _refuse_limits(request: api_pb2.EnvironmentUpdateRequest) -> None:
    if request.max_concurrent_tasks or request.max_concurrent_gpus or request.block_unauthenticated_resources:
        raise NotBuilt(
            "Limits of an environment (containers, GPUs, web functions without proxy auth) are not built yet in Pilotlight. "
            "Name, web suffix and image builder version can be changed."
        )


class EnvironmentHandlers:
    def __init__(self, environments: Environments) -> None:
        self._environments = environments

    async def EnvironmentGetOrCreate(
        self, caller: Caller, request: api_pb2.EnvironmentGetOrCreateRequest
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        if request.object_creation_type in _MAY_CREATE:
            may_exist = request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
            found = await self._environments.create(request.deployment_name, caller.idempotency_key, may_exist=may_exist)
        else:
            found = self._environments.resolve(request.deployment_name)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id=found.environment_id, metadata=_metadata(found))

    async def EnvironmentCreate(self, caller: Caller, request: api_pb2.EnvironmentCreateRequest) -> Empty:
        _refuse_roles(request)
        await self._environments.create(request.name, caller.idempotency_key)
        return Empty()

    async def EnvironmentList(self, caller: Caller, request: Empty) -> api_pb2.EnvironmentListResponse:
        return api_pb2.EnvironmentListResponse(items=[_item(environment) for environment in self._environments.list()])

    async def EnvironmentUpdate(self, caller: Caller, request: api_pb2.EnvironmentUpdateRequest) -> api_pb2.EnvironmentListItem:
        _refuse_limits(request)
        changed = await self._environments.update(
            request.current_name,
            new_name=request.name.value if request.HasField("name") else None,
            web_suffix=request.web_suffix.value if request.HasField("web_suffix") else None,
            image_builder_version=request.image_builder_version if request.HasField("image_builder_version") else None,
        )
        return _item(changed)

    async def EnvironmentDelete(self, caller: Caller, request: api_pb2.EnvironmentDeleteRequest) -> Empty:
        await self._environments.delete(request.name, caller.idempotency_key)
        return Empty()
