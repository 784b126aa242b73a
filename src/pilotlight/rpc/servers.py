"""RPCs of modal.Server: what it has answered."""

from modal_proto import api_pb2

from pilotlight.control.statistics import ContainerCounts, Span, Statistics
from pilotlight.control.timestamps import seconds, timestamp
from pilotlight.control.web_requests import WebRequests
from pilotlight.rpc.framework import Caller
from pilotlight.rpc.statistics import distribution

DEFAULT_BUCKET_S = 60


class ServerHandlers:
    """Servers as the client sees them."""

    def __init__(self, requests: WebRequests, statistics: Statistics) -> None:
        self._requests = requests
        self._statistics = statistics

    async def ServerRequestFetch(
        self, caller: Caller, request: api_pb2.ServerRequestFetchRequest
    ) -> api_pb2.ServerRequestFetchResponse:
        if request.HasField("range"):
            wish = request.range
            rows = await self._requests.between(request.function_id, seconds(wish.since), seconds(wish.until), wish.limit)
        else:
            rows = await self._requests.newest(request.function_id, request.tail.count)
        reply = api_pb2.ServerRequestFetchResponse()
        for row in rows:
            reply.requests.add(
                route=row.route,
                timestamp=timestamp(row.at),
                container_id=row.task_id,
                duration_seconds=row.seconds,
                status=row.status,
            )
        return reply

    async def ServerCountRequests(
        self, caller: Caller, request: api_pb2.ServerCountRequestsRequest
    ) -> api_pb2.ServerCountRequestsResponse:
        since, until = seconds(request.since), seconds(request.until)
        reply = api_pb2.ServerCountRequestsResponse()
        for start, count in await self._requests.counts(request.function_id, since, until, request.bucket_secs or DEFAULT_BUCKET_S):
            reply.buckets.add(bucket_start_at=timestamp(start), count=count)
        return reply

    async def ServerGetTimeRangeStats(
        self, caller: Caller, request: api_pb2.ServerGetTimeRangeStatsRequest
    ) -> api_pb2.ServerGetTimeRangeStatsResponse:
        span = Span(seconds(request.since), seconds(request.until))
        task_id = request.container_id
        report = await self._statistics.of_function(request.function_id, span, with_variants=False, task_id=task_id)
        statuses, durations = await self._requests.outcomes(request.function_id, span.since, span.until, task_id)
        reply = _of_containers(report.containers)
        reply.since.CopyFrom(request.since)
        reply.until.CopyFrom(request.until)
        reply.request_count = sum(row.n for row in statuses)
        reply.request_rate_per_second = reply.request_count / (span.until - span.since)
        for row in statuses:
            reply.request_count_by_status_code.add(status_code=row.status, count=row.n)
        if durations:
            reply.request_percentile_stats["Duration (s)"].CopyFrom(distribution("Duration (s)", durations))
        return reply


def _of_containers(counts: ContainerCounts) -> api_pb2.ServerGetTimeRangeStatsResponse:
    measured = {
        "Startup time (s)": counts.startup_s,
        "CPU usage (cores)": counts.cores,
        "Memory usage (GiB)": counts.memory_gib,
    }
    return api_pb2.ServerGetTimeRangeStatsResponse(
        container_percentile_stats={name: distribution(name, values) for name, values in measured.items() if values},
        container_started_count=counts.started,
        container_error_count=counts.errors,
        container_creating_at_end_count=counts.creating_at_end,
        container_total_count=counts.total,
    )
