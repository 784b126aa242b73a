"""RPCs about what was over time: which series there are of functions and servers, and their points."""

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from pilotlight.control.timelines import Series, Timelines
from pilotlight.core import errors, timelines
from pilotlight.core.timelines import Window
from pilotlight.rpc.framework import Caller

Request = api_pb2.FunctionGetMetricsRequest | api_pb2.ServerGetMetricsRequest | api_pb2.MetricsGetInfoRequest
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
        since, until = Timestamp(seconds=buckets.since), Timestamp(seconds=buckets.until)
        return api_pb2.FunctionGetMetricsResponse(
            since=since, until=until, bucket_secs=buckets.bucket_s, series=_messages(buckets, series)
        )

    async def ServerGetMetrics(self, caller: Caller, request: api_pb2.ServerGetMetricsRequest) -> api_pb2.ServerGetMetricsResponse:
        buckets, groups = _window(request), timelines.chosen(timelines.OF_SERVERS, request.groups)
        series = await self._timelines.of_server(request.function_id, buckets, groups)
        since, until = Timestamp(seconds=buckets.since), Timestamp(seconds=buckets.until)
        return api_pb2.ServerGetMetricsResponse(
            since=since, until=until, bucket_secs=buckets.bucket_s, series=_messages(buckets, series)
        )


def _window(request: Request) -> Window:
    width = request.bucket_secs if request.HasField("bucket_secs") else None
    return timelines.window(_seconds(request.since), _seconds(request.until), width)


def _messages(buckets: Window, series: Iterable[Series]) -> list[api_pb2.FunctionMetricSeries]:
    messages: list[api_pb2.FunctionMetricSeries] = []
    for one in series:
        message = api_pb2.FunctionMetricSeries(name=one.name, unit=one.unit, description=one.description)
        for start, value in zip(buckets.starts, one.values, strict=True):
            message.points.add(timestamp=Timestamp(seconds=start), value=value)
        messages.append(message)
    return messages


def _seconds(moment: Timestamp) -> float:
    return moment.seconds + moment.nanos / 1e9
