"""RPCs of mounts."""

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from pilotlight.control.environments import Environments
from pilotlight.control.mounts import MountHandle, Mounts, checked_file
from pilotlight.core import errors
from pilotlight.rpc.framework import Caller

_DEPLOYING = (api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING, api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS)


def _now() -> Timestamp:
    timestamp = Timestamp()
    timestamp.GetCurrentTime()
    return timestamp


class MountHandlers:
    def __init__(self, mounts: Mounts, environments: Environments) -> None:
        self._mounts = mounts
        self._environments = environments

    async def MountGetOrCreate(self, caller: Caller, request: api_pb2.MountGetOrCreateRequest) -> api_pb2.MountGetOrCreateResponse:
        handle = await self._get_or_create(request)
        return api_pb2.MountGetOrCreateResponse(
            mount_id=handle.mount_id,
            handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex=handle.content_hash),
        )

    async def _get_or_create(self, request: api_pb2.MountGetOrCreateRequest) -> MountHandle:
        kind, name = request.object_creation_type, request.deployment_name
        is_global = request.namespace == api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL
        if is_global and kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            return await self._mounts.look_up_global(name)
        if is_global:
            raise errors.NotAllowed("Global mounts are made by the platform itself. Deploy the mount to an environment.")
        files = (checked_file(file.filename, file.sha256_hex, file.mode) for file in request.files)
        if kind in _DEPLOYING:
            environment = self._environments.resolve(request.environment_name)
            replace = kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
            return await self._mounts.deploy(environment.environment_id, name, files, replace=replace)
        if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            return await self._mounts.look_up(self._environments.resolve(request.environment_name).environment_id, name)
        return await self._mounts.create(files)

    async def MountBatchedCheckExistence(
        self, caller: Caller, request: api_pb2.MountBatchedCheckExistenceRequest
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = await self._mounts.missing(request.sha256_hex_hashes)
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing, checked_at=_now())

    async def MountPutFile(self, caller: Caller, request: api_pb2.MountPutFileRequest) -> api_pb2.MountPutFileResponse:
        kind = request.WhichOneof("data_oneof")
        if kind == "data_blob_id":
            await self._mounts.put_file_from_blob(request.sha256_hex, request.data_blob_id)
        elif kind == "data":
            await self._mounts.put_file(request.sha256_hex, request.data)
        elif await self._mounts.missing([request.sha256_hex]):
            return api_pb2.MountPutFileResponse(exists=False, checked_at=_now())
        return api_pb2.MountPutFileResponse(exists=True, checked_at=_now())
