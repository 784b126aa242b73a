"""RPCs about what was over time: which series there are of functions and servers, and their points."""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from pilotlight.control.timelines import Series, Timelines
from pilotlight.control.timestamps import seconds
from pilotlight.core import errors, timelines
from pilotlight.core.timelines import Window
from pilotlight.rpc.framework import Caller

Request = api_pb2.FunctionGetMetricsRequest | api_pb2.ServerGetMetricsRequest | api_pb2.MetricsGetInfoRequest
Reply = TypeVar("Reply", api_pb2.FunctionGetMetricsResponse, api_pb2.ServerGetMetricsResponse)
_TARGETS = {
    api_pb2.MetricsGetInfoRequest.METRICS_TARGET_TYPE_FUNCTION: timelines.OF_FUNCTIONS,
    api_pb2.MetricsGetInfoRequest.METRICS_TARGET_TYPE_SERVER: timelines.OF_SERVERS,
}


class TimelineHandlers:
    """Series as the client sees them."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines

    async def MetricsGetInfo(self, caller: Caller, request: api_pb2.MetricsGetInfoRequest) -> api_pb2.MetricsGetInfoResponse:
        if (groups := _TARGETS.get(request.target_type)) is None:
            raise errors.InvalidInput("There are series of functions and of servers: `target_type` says neither.")
        buckets = _window(request)
        reply = api_pb2.MetricsGetInfoResponse(bucket_secs=buckets.bucket_s, bucket_count=len(buckets.starts))
        for name, families in timelines.chosen(groups, request.groups).items():
            for family in families:
                row = reply.groups.add(name=name, description=family.description, display_name=family.display_name)
                for series in family.names:
                    row.metrics.add(name=series, unit=family.unit, description=family.description)
        return reply

    async def FunctionGetMetrics(
        self, caller: Caller, request: api_pb2.FunctionGetMetricsRequest
    ) -> api_pb2.FunctionGetMetricsResponse:
        buckets, groups = _window(request), timelines.chosen(timelines.OF_FUNCTIONS, request.groups)
        series = await self._timelines.of_function(request.function_id, buckets, groups, with_variants=request.rollup)
        return await asyncio.to_thread(_filled, api_pb2.FunctionGetMetricsResponse(), buckets, series)

    async def ServerGetMetrics(self, caller: Caller, request: api_pb2.ServerGetMetricsRequest) -> api_pb2.ServerGetMetricsResponse:
        buckets, groups = _window(request), timelines.chosen(timelines.OF_SERVERS, request.groups)
        series = await self._timelines.of_server(request.function_id, buckets, groups)
        return await asyncio.to_thread(_filled, api_pb2.ServerGetMetricsResponse(), buckets, series)


def _window(request: Request) -> Window:
    width = request.bucket_secs if request.HasField("bucket_secs") else None
    return timelines.window(seconds(request.since), seconds(request.until), width)


def _filled(reply: Reply, buckets: Window, series: Iterable[Series]) -> Reply:
    """Series have 500 points each, and there are dozens: too many messages to be made while calls wait."""
    reply.since.seconds, reply.until.seconds, reply.bucket_secs = buckets.since, buckets.until, buckets.bucket_s
    starts = [Timestamp(seconds=start) for start in buckets.starts]
    for one in series:
        message = reply.series.add(name=one.name, unit=one.unit, description=one.description)
        for start, value in zip(starts, one.values, strict=True):
            message.points.add(timestamp=start, value=value)
    return reply
