"""RPCs of the published names of images, and of their deletion."""

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.image_names import ImageNames
from pilotlight.control.tokens import Tokens
from pilotlight.rpc.framework import Caller


class ImageNameHandlers:
    """Names of images as the client sees them."""

    def __init__(self, names: ImageNames, tokens: Tokens) -> None:
        self._names = names
        self._tokens = tokens

    async def ImagePublish(self, caller: Caller, request: api_pb2.ImagePublishRequest) -> api_pb2.ImagePublishResponse:
        who = caller.token_id or caller.task_id or ""
        revision_id = await self._names.publish(
            request.image_id, request.tag, request.environment_name, who, caller.idempotency_key
        )
        return api_pb2.ImagePublishResponse(image_id=request.image_id, revision_id=revision_id)

    async def ImageGetByTag(self, caller: Caller, request: api_pb2.ImageGetByTagRequest) -> api_pb2.ImageGetByTagResponse:
        return api_pb2.ImageGetByTagResponse(image_id=await self._names.find(request.tag, request.environment_name))

    async def ImageListTags(self, caller: Caller, request: api_pb2.ImageListTagsRequest) -> api_pb2.ImageListTagsResponse:
        environment, rows, token = await self._names.page(
            request.environment_name, request.tag_prefix, request.image_id, request.page_token, request.max_objects
        )
        reply = api_pb2.ImageListTagsResponse(environment_name=environment.name, next_page_token=token)
        for row in rows:
            item = reply.items.add(tag=row.tag, image_id=row.image_id, revision_id=row.revision_id)
            item.created_at, item.updated_at = row.since, row.created_at
            item.last_published_by = self._tokens.name_of(row.published_by)
        return reply

    async def ImageTagRevisions(
        self, caller: Caller, request: api_pb2.ImageTagRevisionsRequest
    ) -> api_pb2.ImageTagRevisionsResponse:
        before = int(request.page_token) if request.page_token.isdecimal() else 0
        environment, tag, rows, token = await self._names.revisions(
            request.tag, request.environment_name, before, request.max_objects
        )
        reply = api_pb2.ImageTagRevisionsResponse(tag=tag, environment_name=environment.name, next_page_token=token)
        for row in rows:
            item = reply.items.add(image_id=row.image_id, revision_id=row.revision_id, created_at=row.created_at)
            item.published_by = self._tokens.name_of(row.published_by)
        return reply

    async def ImageNameDelete(self, caller: Caller, request: api_pb2.ImageNameDeleteRequest) -> Empty:
        await self._names.remove(request.tag, caller.idempotency_key)
        return Empty()

    async def ImageDelete(self, caller: Caller, request: api_pb2.ImageDeleteRequest) -> Empty:
        await self._names.remove_image(request.image_id, caller.idempotency_key)
        return Empty()
