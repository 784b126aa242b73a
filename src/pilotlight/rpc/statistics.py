"""RPCs about spans of time: what functions and apps have done, and what was bound from a function."""

from collections.abc import Sequence

from modal_proto import api_pb2

from pilotlight.control.call_lists import CallLists
from pilotlight.control.statistics import MemberReport, Span, Statistics
from pilotlight.control.timestamps import seconds, timestamp
from pilotlight.core.statistics import percentiles
from pilotlight.rpc.apps import AppHandlers
from pilotlight.rpc.framework import Caller


class StatisticsHandlers:
    """Statistics as the client sees them."""

    def __init__(self, statistics: Statistics, apps: AppHandlers, call_lists: CallLists) -> None:
        self._statistics = statistics
        self._apps = apps
        self._call_lists = call_lists

    async def FunctionGetTimeRangeStats(
        self, caller: Caller, request: api_pb2.FunctionGetTimeRangeStatsRequest
    ) -> api_pb2.FunctionGetTimeRangeStatsResponse:
        report = await self._statistics.of_function(
            request.function_id, _span(request), with_variants=request.rollup, task_id=request.container_id
        )
        times = {"Execution time (s)": report.execution_s, "End-to-end latency (s)": report.latency_s}
        containers = report.containers
        measured = {
            "Startup time (s)": containers.startup_s,
            "CPU Usage (cores)": containers.cores,
            "Memory Usage (GiB)": containers.memory_gib,
        }
        return api_pb2.FunctionGetTimeRangeStatsResponse(
            since=request.since,
            until=request.until,
            input_success_count=report.inputs.succeeded,
            input_failure_count=report.inputs.failed,
            input_timeout_count=report.inputs.timed_out,
            input_running_at_end_count=report.unfinished_at_end,
            input_percentile_stats={name: distribution(name, values) for name, values in times.items() if values},
            container_started_count=containers.started,
            container_error_count=containers.errors,
            container_creating_at_end_count=containers.creating_at_end,
            container_percentile_stats={name: distribution(name, values) for name, values in measured.items() if values},
            variant_count=report.variants,
            container_total_count=containers.total,
        )

    async def AppGetTimeRangeStats(
        self, caller: Caller, request: api_pb2.AppGetTimeRangeStatsRequest
    ) -> api_pb2.AppGetTimeRangeStatsResponse:
        reports, deployments = await self._statistics.of_app(request.app_id, _span(request))
        reply = api_pb2.AppGetTimeRangeStatsResponse(since=request.since, until=request.until, deployment_count=deployments)
        reply.lifecycle.CopyFrom(await self._apps.lifecycle(request.app_id))
        for name, report in reports.items():
            reply.functions.by_name[name].object_id = report.function_id
            _add(reply.functions.by_name[name].counts, report)
            _add(reply.functions.total, report)
        return reply

    async def FunctionCallFetch(
        self, caller: Caller, request: api_pb2.FunctionCallFetchRequest
    ) -> api_pb2.FunctionCallFetchResponse:
        function_id, with_variants = request.function_id, request.all_variants
        if request.HasField("range"):
            since, until = seconds(request.range.since), seconds(request.range.until)
            infos = await self._call_lists.between(function_id, since, until, request.range.limit, with_variants=with_variants)
        else:
            infos = await self._call_lists.newest(function_id, request.tail.count, with_variants=with_variants)
        return api_pb2.FunctionCallFetchResponse(function_call_inputs=infos)

    async def FunctionCallCount(
        self, caller: Caller, request: api_pb2.FunctionCallCountRequest
    ) -> api_pb2.FunctionCallCountResponse:
        since, until = seconds(request.since), seconds(request.until)
        reply = api_pb2.FunctionCallCountResponse()
        for row in await self._call_lists.counts(
            request.function_id, since, until, request.bucket_secs, with_variants=request.all_variants
        ):
            reply.buckets.add(bucket_start_at=timestamp(row.start), count=row.n)
        return reply

    async def FunctionListVariants(
        self, caller: Caller, request: api_pb2.FunctionListVariantsRequest
    ) -> api_pb2.FunctionListVariantsResponse:
        after = (request.cursor.created_before, request.cursor.function_id) if request.HasField("cursor") else None
        rows, is_ranked, following = await self._statistics.variants(request.function_id, request.limit, after)
        reply = api_pb2.FunctionListVariantsResponse(ordered_by_task_count=is_ranked)
        for row in rows:
            info = reply.infos.add(function_id=row.function_id, serialized_params=row.params or b"")
            if row.options:
                info.function_options.ParseFromString(row.options)
        if following is not None:
            reply.next_cursor.created_before, reply.next_cursor.function_id = following
        return reply


def _add(counts: api_pb2.AppFunctionCounts, report: MemberReport) -> None:
    failed = report.inputs.failed + report.inputs.timed_out
    counts.calls.total += report.inputs.succeeded + failed
    counts.calls.succeeded += report.inputs.succeeded
    counts.calls.failed += failed
    counts.containers.container_errors += report.containers.errors
    counts.containers.container_active_count += report.containers.total


def distribution(name: str, values: Sequence[float]) -> api_pb2.StatsPercentileDistribution:
    """Percentiles of values whose unit stands in parentheses at the end of their name."""
    reply = api_pb2.StatsPercentileDistribution(unit=name.rpartition("(")[2].removesuffix(")"))
    for point, value in percentiles(values):
        reply.percentiles.add(percentile_basis_points=point, value=value)
    return reply


def _span(request: api_pb2.FunctionGetTimeRangeStatsRequest | api_pb2.AppGetTimeRangeStatsRequest) -> Span:
    return Span(seconds(request.since), seconds(request.until))
