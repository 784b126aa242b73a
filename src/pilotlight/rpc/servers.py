"""RPCs of modal.Server: what it has answered."""

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from pilotlight.control.web_requests import WebRequests
from pilotlight.rpc.framework import Caller

DEFAULT_BUCKET_S = 60


class ServerHandlers:
    """Servers as the client sees them."""

    def __init__(self, requests: WebRequests) -> None:
        self._requests = requests

    async def ServerRequestFetch(
        self, caller: Caller, request: api_pb2.ServerRequestFetchRequest
    ) -> api_pb2.ServerRequestFetchResponse:
        if request.HasField("range"):
            wish = request.range
            rows = await self._requests.between(request.function_id, _seconds(wish.since), _seconds(wish.until), wish.limit)
        else:
            rows = await self._requests.newest(request.function_id, request.tail.count)
        reply = api_pb2.ServerRequestFetchResponse()
        for row in rows:
            reply.requests.add(
                route=row.route,
                timestamp=_timestamp(row.at),
                container_id=row.task_id,
                duration_seconds=row.seconds,
                status=row.status,
            )
        return reply

    async def ServerCountRequests(
        self, caller: Caller, request: api_pb2.ServerCountRequestsRequest
    ) -> api_pb2.ServerCountRequestsResponse:
        since, until = _seconds(request.since), _seconds(request.until)
        reply = api_pb2.ServerCountRequestsResponse()
        for row in await self._requests.counts(request.function_id, since, until, request.bucket_secs or DEFAULT_BUCKET_S):
            reply.buckets.add(bucket_start_at=_timestamp(row.start), count=row.n)
        return reply


def _seconds(moment: Timestamp) -> float:
    return moment.seconds + moment.nanos / 1e9


def _timestamp(at: float) -> Timestamp:
    return Timestamp(seconds=int(at), nanos=int(at % 1 * 1e9))
