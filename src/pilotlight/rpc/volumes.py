"""RPCs of volumes. Version 1 and version 2 have methods of their own, which differ in how files come in."""

import stat
from collections.abc import AsyncGenerator, Sequence

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.mounts import checked_file
from pilotlight.control.volume_files import ContentFile, VolumeFiles, block_file
from pilotlight.control.volumes import VolumeRecord, Volumes
from pilotlight.core import errors
from pilotlight.core.volumes import parse_file_path, parse_path
from pilotlight.rpc.creation import creation_of
from pilotlight.rpc.framework import Caller
from pilotlight.volumes.walking import Entry

_TYPES = {
    stat.S_IFREG: api_pb2.FileEntry.FILE,
    stat.S_IFDIR: api_pb2.FileEntry.DIRECTORY,
    stat.S_IFLNK: api_pb2.FileEntry.SYMLINK,
    stat.S_IFIFO: api_pb2.FileEntry.FIFO,
    stat.S_IFSOCK: api_pb2.FileEntry.SOCKET,
}


def _metadata(found: VolumeRecord) -> api_pb2.VolumeMetadata:
    return api_pb2.VolumeMetadata(
        version=found.version,  # pyright: ignore[reportArgumentType]
        name=found.object.name,
        creation_info=api_pb2.CreationInfo(created_at=found.object.created_at),
    )


def file_entry(entry: Entry) -> api_pb2.FileEntry:
    """An entry of a directory in the protocol's words."""
    # A name that is not UTF-8 is shown with marks in the place of its odd bytes; only programs in containers can use it.
    path = "/".join(entry.parts).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    kind = _TYPES.get(entry.format, api_pb2.FileEntry.UNSPECIFIED)
    size = entry.size_bytes if kind == api_pb2.FileEntry.FILE else 0
    return api_pb2.FileEntry(path=path, type=kind, mtime=max(0, int(entry.modified_at)), size=size)


def _check_options(request: api_pb2.VolumeGetOrCreateRequest) -> None:
    if request.create_options.experimental_options:
        names = ", ".join(sorted(request.create_options.experimental_options))
        raise errors.NotBuilt(f"Experimental options of volumes ({names}) are not built in Pilotlight. Leave them away.")
    if request.version not in api_pb2.VolumeFsVersion.values():
        raise errors.InvalidInput(f"There is no version {request.version} of volumes. Ask for 1 or 2.")


class VolumeHandlers:
    def __init__(self, volumes: Volumes, files: VolumeFiles) -> None:
        self._volumes = volumes
        self._files = files

    async def VolumeGetOrCreate(
        self, caller: Caller, request: api_pb2.VolumeGetOrCreateRequest
    ) -> api_pb2.VolumeGetOrCreateResponse:
        _check_options(request)
        found = await self._volumes.get_or_create(
            request.environment_name,
            request.deployment_name,
            creation_of(request.object_creation_type),
            request.version,
            caller.idempotency_key,
        )
        metadata = _metadata(found)
        return api_pb2.VolumeGetOrCreateResponse(volume_id=found.object.object_id, version=metadata.version, metadata=metadata)

    async def VolumeGetById(self, caller: Caller, request: api_pb2.VolumeGetByIdRequest) -> api_pb2.VolumeGetByIdResponse:
        found = await self._volumes.get(request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=found.object.object_id, metadata=_metadata(found))

    async def VolumeHeartbeat(self, caller: Caller, request: api_pb2.VolumeHeartbeatRequest) -> Empty:
        await self._volumes.objects.heartbeat(request.volume_id)
        return Empty()

    async def VolumeDelete(self, caller: Caller, request: api_pb2.VolumeDeleteRequest) -> Empty:
        await self._volumes.delete([request.volume_id])
        return Empty()

    async def VolumeRename(self, caller: Caller, request: api_pb2.VolumeRenameRequest) -> Empty:
        await self._volumes.objects.rename(request.volume_id, request.name)
        return Empty()

    async def VolumeList(self, caller: Caller, request: api_pb2.VolumeListRequest) -> api_pb2.VolumeListResponse:
        page = request.pagination
        environment, found = await self._volumes.list(request.environment_name, page.created_before, page.max_objects)
        items = [
            api_pb2.VolumeListItem(
                label=one.object.name, volume_id=one.object.object_id, created_at=one.object.created_at, metadata=_metadata(one)
            )
            for one in found
        ]
        return api_pb2.VolumeListResponse(items=items, environment_name=environment.name)

    # ---- in containers ----

    async def VolumeCommit(self, caller: Caller, request: api_pb2.VolumeCommitRequest) -> api_pb2.VolumeCommitResponse:
        await self._volumes.commit(request.volume_id, caller.task_id)
        return api_pb2.VolumeCommitResponse(skip_reload=True)  # a container sees everybody's changes as they are made

    async def VolumeReload(self, caller: Caller, request: api_pb2.VolumeReloadRequest) -> Empty:
        await self._volumes.reload(request.volume_id, caller.task_id)
        return Empty()

    # ---- files ----

    async def VolumeListFiles(
        self, caller: Caller, request: api_pb2.VolumeListFilesRequest
    ) -> AsyncGenerator[api_pb2.VolumeListFilesResponse]:
        async for entries in self._entries(request):
            yield api_pb2.VolumeListFilesResponse(entries=entries)

    async def VolumeListFiles2(
        self, caller: Caller, request: api_pb2.VolumeListFiles2Request
    ) -> AsyncGenerator[api_pb2.VolumeListFiles2Response]:
        async for entries in self._entries(request):
            yield api_pb2.VolumeListFiles2Response(entries=entries)

    async def _entries(
        self, request: api_pb2.VolumeListFilesRequest | api_pb2.VolumeListFiles2Request
    ) -> AsyncGenerator[Sequence[api_pb2.FileEntry]]:
        parts = parse_path(request.path)
        batches = self._volumes.entries(request.volume_id, parts, recursive=request.recursive, limit=request.max_entries)
        async for batch in batches:
            yield [file_entry(entry) for entry in batch]

    async def VolumeGetFile(self, caller: Caller, request: api_pb2.VolumeGetFileRequest) -> api_pb2.VolumeGetFileResponse:
        found = await self._files.read(request.volume_id, parse_file_path(request.path), request.start, request.len)
        reply = api_pb2.VolumeGetFileResponse(size=found.size_bytes, start=found.start, len=found.length)
        if found.blob_id:
            reply.data_blob_id = found.blob_id
        else:
            reply.data = found.data
        return reply

    async def VolumeGetFile2(self, caller: Caller, request: api_pb2.VolumeGetFile2Request) -> api_pb2.VolumeGetFile2Response:
        parts = parse_file_path(request.path)
        found = await self._files.download(request.volume_id, parts, request.start, request.len, caller.edge_base_url)
        return api_pb2.VolumeGetFile2Response(get_urls=found.urls, size=found.size_bytes, start=found.start, len=found.length)

    async def VolumePutFiles(self, caller: Caller, request: api_pb2.VolumePutFilesRequest) -> Empty:
        await self._files.put_contents(
            request.volume_id,
            [_content_file(file) for file in request.files],
            overwrite=not request.disallow_overwrite_existing_files,
            request_key=caller.idempotency_key,
            is_repeated=caller.is_repeated,
        )
        return Empty()

    async def VolumePutFiles2(self, caller: Caller, request: api_pb2.VolumePutFiles2Request) -> api_pb2.VolumePutFiles2Response:
        missing = await self._files.put_blocks(
            request.volume_id,
            [
                block_file(file.path, file.mode, file.size, [(block.contents_sha256, block.put_response) for block in file.blocks])
                for file in request.files
            ],
            overwrite=not request.disallow_overwrite_existing_files,
            request_key=caller.idempotency_key,
            is_repeated=caller.is_repeated,
            edge_base_url=caller.edge_base_url,
        )
        reply = api_pb2.VolumePutFiles2Response()
        for one in missing:
            reply.missing_blocks.add(file_index=one.file_index, block_index=one.block_index, put_url=one.put_url)
        return reply

    async def VolumeRemoveFile(self, caller: Caller, request: api_pb2.VolumeRemoveFileRequest) -> Empty:
        parts = parse_path(request.path)
        await self._volumes.remove(request.volume_id, parts, recursive=request.recursive, is_repeated=caller.is_repeated)
        return Empty()

    async def VolumeRemoveFile2(self, caller: Caller, request: api_pb2.VolumeRemoveFile2Request) -> Empty:
        parts = parse_path(request.path)
        await self._volumes.remove(request.volume_id, parts, recursive=request.recursive, is_repeated=caller.is_repeated)
        return Empty()

    async def VolumeCopyFiles(self, caller: Caller, request: api_pb2.VolumeCopyFilesRequest) -> Empty:
        await self._copy(request)
        return Empty()

    async def VolumeCopyFiles2(self, caller: Caller, request: api_pb2.VolumeCopyFiles2Request) -> Empty:
        await self._copy(request)
        return Empty()

    async def _copy(self, request: api_pb2.VolumeCopyFilesRequest | api_pb2.VolumeCopyFiles2Request) -> None:
        await self._volumes.copy(
            request.volume_id,
            [parse_path(path) for path in request.src_paths],
            parse_path(request.dst_path),
            into_directory=request.dst_path.endswith("/"),
            recursive=request.recursive,
        )


def _content_file(file: api_pb2.MountFile) -> ContentFile:
    parts = parse_file_path(file.filename)
    return ContentFile(parts, file.mode, checked_file(file.filename, file.sha256_hex, file.mode).sha256)
