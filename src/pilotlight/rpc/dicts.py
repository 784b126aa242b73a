"""RPCs of dicts."""

from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.dicts import Dicts
from pilotlight.control.named import NamedObject
from pilotlight.rpc.creation import creation_of
from pilotlight.rpc.framework import Caller


def _metadata(found: NamedObject) -> api_pb2.DictMetadata:
    return api_pb2.DictMetadata(name=found.name, creation_info=api_pb2.CreationInfo(created_at=found.created_at))


class DictHandlers:
    def __init__(self, dicts: Dicts) -> None:
        self._dicts = dicts

    async def DictGetOrCreate(self, caller: Caller, request: api_pb2.DictGetOrCreateRequest) -> api_pb2.DictGetOrCreateResponse:
        found = await self._dicts.get_or_create(
            request.environment_name,
            request.deployment_name,
            creation_of(request.object_creation_type),
            caller.idempotency_key,
            [(entry.key, entry.value) for entry in request.data],
        )
        return api_pb2.DictGetOrCreateResponse(dict_id=found.object_id, metadata=_metadata(found))

    async def DictGetById(self, caller: Caller, request: api_pb2.DictGetByIdRequest) -> api_pb2.DictGetByIdResponse:
        found = await self._dicts.objects.get(request.dict_id)
        return api_pb2.DictGetByIdResponse(dict_id=found.object_id, metadata=_metadata(found))

    async def DictUpdate(self, caller: Caller, request: api_pb2.DictUpdateRequest) -> api_pb2.DictUpdateResponse:
        created = await self._dicts.put(
            request.dict_id,
            [(entry.key, entry.value) for entry in request.updates],
            if_not_exists=request.if_not_exists,
            request_key=caller.idempotency_key,
        )
        return api_pb2.DictUpdateResponse(created=created)

    async def DictGet(self, caller: Caller, request: api_pb2.DictGetRequest) -> api_pb2.DictGetResponse:
        value = await self._dicts.get(request.dict_id, request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    async def DictPop(self, caller: Caller, request: api_pb2.DictPopRequest) -> api_pb2.DictPopResponse:
        value = await self._dicts.pop(request.dict_id, request.key, caller.idempotency_key)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    async def DictContains(self, caller: Caller, request: api_pb2.DictContainsRequest) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=await self._dicts.contains(request.dict_id, request.key))

    async def DictLen(self, caller: Caller, request: api_pb2.DictLenRequest) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=await self._dicts.count(request.dict_id))

    async def DictContents(self, caller: Caller, request: api_pb2.DictContentsRequest) -> AsyncGenerator[api_pb2.DictEntry]:
        async for key, value in self._dicts.contents(request.dict_id, with_values=request.values):
            yield api_pb2.DictEntry(key=key, value=value or b"")

    async def DictClear(self, caller: Caller, request: api_pb2.DictClearRequest) -> Empty:
        await self._dicts.clear(request.dict_id)
        return Empty()

    async def DictHeartbeat(self, caller: Caller, request: api_pb2.DictHeartbeatRequest) -> Empty:
        await self._dicts.objects.heartbeat(request.dict_id)
        return Empty()

    async def DictDelete(self, caller: Caller, request: api_pb2.DictDeleteRequest) -> Empty:
        await self._dicts.objects.delete([request.dict_id])
        return Empty()

    async def DictList(self, caller: Caller, request: api_pb2.DictListRequest) -> api_pb2.DictListResponse:
        page = request.pagination
        environment, found = await self._dicts.objects.list(request.environment_name, page.created_before, page.max_objects)
        infos = [
            api_pb2.DictListResponse.DictInfo(
                name=one.name, created_at=one.created_at, dict_id=one.object_id, metadata=_metadata(one)
            )
            for one in found
        ]
        return api_pb2.DictListResponse(dicts=infos, environment_name=environment.name)
