"""RPCs of blobs."""

from modal_proto import api_pb2

from pilotlight.control.blobs import Blobs
from pilotlight.core.blobs import WholeUpload
from pilotlight.core.versions import is_older
from pilotlight.rpc.framework import Caller

_PRIVATE_HOSTS_KNOWN_SINCE = (1, 5)
_WITHOUT_PARTS = (api_pb2.CLIENT_TYPE_LIBMODAL, api_pb2.CLIENT_TYPE_LIBMODAL_JS, api_pb2.CLIENT_TYPE_LIBMODAL_GO)


class BlobHandlers:
    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def BlobCreate(self, caller: Caller, request: api_pb2.BlobCreateRequest) -> api_pb2.BlobCreateResponse:
        blob_id, upload = self._blobs.create(
            caller.task_id or caller.token_id,
            caller.idempotency_key,
            request.content_length,
            request.content_md5,
            takes_parts=caller.client_type not in _WITHOUT_PARTS,
            knows_private_hosts=not is_older(caller.client_version, _PRIVATE_HOSTS_KNOWN_SINCE),
            edge_base_url=caller.edge_base_url,
        )
        reply = api_pb2.BlobCreateResponse(blob_id=blob_id, blob_ids=[blob_id])
        # Each way is given twice: older clients read the first field, newer ones a list of alternatives.
        if isinstance(upload, WholeUpload):
            reply.upload_url = upload.url
            reply.upload_urls.items.append(upload.url)
        else:
            parts = api_pb2.MultiPartUpload(
                part_length=upload.part_bytes, upload_urls=upload.part_urls, completion_url=upload.completion_url
            )
            reply.multipart.CopyFrom(parts)
            reply.multiparts.items.append(parts)
        return reply

    async def BlobGet(self, caller: Caller, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url=await self._blobs.download_url(request.blob_id, caller.edge_base_url))

    async def FunctionBlobGet(self, caller: Caller, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse:
        return await self.BlobGet(caller, request)
