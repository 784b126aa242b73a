"""RPCs of queues."""

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.named import NamedObject
from pilotlight.control.queues import Queues, QueueSize
from pilotlight.core.errors import InvalidInput
from pilotlight.rpc.creation import creation_of
from pilotlight.rpc.framework import Caller


def _metadata(found: NamedObject) -> api_pb2.QueueMetadata:
    return api_pb2.QueueMetadata(name=found.name, creation_info=api_pb2.CreationInfo(created_at=found.created_at))


def _info(size: QueueSize, size_limit: int) -> api_pb2.QueueListResponse.QueueInfo:
    return api_pb2.QueueListResponse.QueueInfo(
        name=size.queue.name,
        created_at=size.queue.created_at,
        num_partitions=size.partitions,
        total_size=min(size.items, size_limit) if size_limit > 0 else size.items,
        queue_id=size.queue.object_id,
        metadata=_metadata(size.queue),
    )


def _entry_number(entry_id: str) -> int:
    if entry_id and not entry_id.isdecimal():
        raise InvalidInput(f"{entry_id!r} is no entry of a queue: pass the entry_id of the last item that was seen, or nothing.")
    return int(entry_id or 0)


class QueueHandlers:
    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def QueueGetOrCreate(self, caller: Caller, request: api_pb2.QueueGetOrCreateRequest) -> api_pb2.QueueGetOrCreateResponse:
        creation = creation_of(request.object_creation_type)
        found = await self._queues.get_or_create(
            request.environment_name, request.deployment_name, creation, caller.idempotency_key
        )
        return api_pb2.QueueGetOrCreateResponse(queue_id=found.object_id, metadata=_metadata(found))

    async def QueueGetById(self, caller: Caller, request: api_pb2.QueueGetByIdRequest) -> api_pb2.QueueGetByIdResponse:
        found = await self._queues.objects.get(request.queue_id)
        return api_pb2.QueueGetByIdResponse(queue_id=found.object_id, metadata=_metadata(found))

    async def QueuePut(self, caller: Caller, request: api_pb2.QueuePutRequest) -> Empty:
        ttl_s = request.partition_ttl_seconds
        await self._queues.put(request.queue_id, request.partition_key, request.values, ttl_s, caller.idempotency_key)
        return Empty()

    async def QueueGet(self, caller: Caller, request: api_pb2.QueueGetRequest) -> api_pb2.QueueGetResponse:
        values = await self._queues.get(
            request.queue_id, request.partition_key, request.n_values, request.timeout, caller.idempotency_key
        )
        return api_pb2.QueueGetResponse(values=values)

    async def QueueNextItems(self, caller: Caller, request: api_pb2.QueueNextItemsRequest) -> api_pb2.QueueNextItemsResponse:
        last = _entry_number(request.last_entry_id)
        found = await self._queues.items_after(request.queue_id, request.partition_key, last, request.item_poll_timeout)
        return api_pb2.QueueNextItemsResponse(
            items=[api_pb2.QueueItem(value=value, entry_id=str(number)) for number, value in found]
        )

    async def QueueLen(self, caller: Caller, request: api_pb2.QueueLenRequest) -> api_pb2.QueueLenResponse:
        count = await self._queues.count(request.queue_id, request.partition_key, total=request.total)
        return api_pb2.QueueLenResponse(len=count)

    async def QueueClear(self, caller: Caller, request: api_pb2.QueueClearRequest) -> Empty:
        await self._queues.clear(request.queue_id, None if request.all_partitions else request.partition_key)
        return Empty()

    async def QueueHeartbeat(self, caller: Caller, request: api_pb2.QueueHeartbeatRequest) -> Empty:
        await self._queues.objects.heartbeat(request.queue_id)
        return Empty()

    async def QueueDelete(self, caller: Caller, request: api_pb2.QueueDeleteRequest) -> Empty:
        await self._queues.delete([request.queue_id])
        return Empty()

    async def QueueList(self, caller: Caller, request: api_pb2.QueueListRequest) -> api_pb2.QueueListResponse:
        page = request.pagination
        environment, sizes = await self._queues.list(request.environment_name, page.created_before, page.max_objects)
        infos = [_info(size, request.total_size_limit) for size in sizes]
        return api_pb2.QueueListResponse(queues=infos, environment_name=environment.name)
