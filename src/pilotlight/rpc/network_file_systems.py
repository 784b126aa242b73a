"""RPCs of network file systems, which the protocol calls shared volumes."""

from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.network_file_systems import NetworkFileSystems
from pilotlight.core.volumes import parse_file_path, parse_path
from pilotlight.rpc.creation import creation_of
from pilotlight.rpc.framework import Caller
from pilotlight.rpc.volumes import file_entry


class NetworkFileSystemHandlers:
    def __init__(self, file_systems: NetworkFileSystems) -> None:
        self._file_systems = file_systems

    async def SharedVolumeGetOrCreate(
        self, caller: Caller, request: api_pb2.SharedVolumeGetOrCreateRequest
    ) -> api_pb2.SharedVolumeGetOrCreateResponse:
        creation = creation_of(request.object_creation_type)
        found = await self._file_systems.get_or_create(
            request.environment_name, request.deployment_name, creation, caller.idempotency_key
        )
        return api_pb2.SharedVolumeGetOrCreateResponse(shared_volume_id=found.object_id)

    async def SharedVolumeHeartbeat(self, caller: Caller, request: api_pb2.SharedVolumeHeartbeatRequest) -> Empty:
        await self._file_systems.objects.heartbeat(request.shared_volume_id)
        return Empty()

    async def SharedVolumeDelete(self, caller: Caller, request: api_pb2.SharedVolumeDeleteRequest) -> Empty:
        await self._file_systems.delete([request.shared_volume_id])
        return Empty()

    async def SharedVolumeList(self, caller: Caller, request: api_pb2.SharedVolumeListRequest) -> api_pb2.SharedVolumeListResponse:
        environment, found = await self._file_systems.list(request.environment_name)
        items = [
            api_pb2.SharedVolumeListItem(label=one.name, shared_volume_id=one.object_id, created_at=one.created_at) for one in found
        ]
        return api_pb2.SharedVolumeListResponse(items=items, environment_name=environment.name)

    async def SharedVolumePutFile(
        self, caller: Caller, request: api_pb2.SharedVolumePutFileRequest
    ) -> api_pb2.SharedVolumePutFileResponse:
        parts = parse_file_path(request.path)
        if request.data_blob_id:
            await self._file_systems.put_blob(request.shared_volume_id, parts, request.sha256_hex, request.data_blob_id)
        else:
            await self._file_systems.put_data(request.shared_volume_id, parts, request.data)
        return api_pb2.SharedVolumePutFileResponse(exists=True)

    async def SharedVolumeGetFile(
        self, caller: Caller, request: api_pb2.SharedVolumeGetFileRequest
    ) -> api_pb2.SharedVolumeGetFileResponse:
        found = await self._file_systems.read(request.shared_volume_id, parse_file_path(request.path))
        if found.blob_id:
            return api_pb2.SharedVolumeGetFileResponse(data_blob_id=found.blob_id)
        return api_pb2.SharedVolumeGetFileResponse(data=found.data)

    async def SharedVolumeListFiles(
        self, caller: Caller, request: api_pb2.SharedVolumeListFilesRequest
    ) -> api_pb2.SharedVolumeListFilesResponse:
        reply = api_pb2.SharedVolumeListFilesResponse()
        async for batch in self._file_systems.entries(request.shared_volume_id, parse_path(request.path)):
            reply.entries.extend(file_entry(entry) for entry in batch)
        return reply

    async def SharedVolumeListFilesStream(
        self, caller: Caller, request: api_pb2.SharedVolumeListFilesRequest
    ) -> AsyncGenerator[api_pb2.SharedVolumeListFilesResponse]:
        async for batch in self._file_systems.entries(request.shared_volume_id, parse_path(request.path)):
            yield api_pb2.SharedVolumeListFilesResponse(entries=[file_entry(entry) for entry in batch])

    async def SharedVolumeRemoveFile(self, caller: Caller, request: api_pb2.SharedVolumeRemoveFileRequest) -> Empty:
        parts = parse_path(request.path)
        await self._file_systems.remove(
            request.shared_volume_id, parts, recursive=request.recursive, is_repeated=caller.is_repeated
        )
        return Empty()
