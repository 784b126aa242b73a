"""RPCs of images."""

from collections.abc import AsyncGenerator

from modal_proto import api_pb2

from pilotlight.control.images import Images, metadata_of, result_of
from pilotlight.rpc.framework import Caller

JOIN_LIMIT_S = 60.0


class ImageHandlers:
    """Images as the client sees them."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def ImageGetOrCreate(self, caller: Caller, request: api_pb2.ImageGetOrCreateRequest) -> api_pb2.ImageGetOrCreateResponse:
        row = await self._images.get_or_create(request, caller.client_version, caller.idempotency_key)
        if row.state != "built":
            return api_pb2.ImageGetOrCreateResponse(image_id=row.image_id)
        return api_pb2.ImageGetOrCreateResponse(image_id=row.image_id, result=result_of(row), metadata=metadata_of(row))

    async def ImageJoinStreaming(
        self, caller: Caller, request: api_pb2.ImageJoinStreamingRequest
    ) -> AsyncGenerator[api_pb2.ImageJoinStreamingResponse]:
        await self._images.row(request.image_id)
        after = int(request.last_entry_id) if request.last_entry_id.isdecimal() else 0
        timeout_s = min(request.timeout, JOIN_LIMIT_S)
        replies = self._images.join(request.image_id, after, timeout_s, include_finished_logs=request.include_logs_for_finished)
        async for reply in replies:
            yield reply

    async def ImageFromId(self, caller: Caller, request: api_pb2.ImageFromIdRequest) -> api_pb2.ImageFromIdResponse:
        row = await self._images.row(request.image_id)
        return api_pb2.ImageFromIdResponse(image_id=row.image_id, metadata=metadata_of(row))
