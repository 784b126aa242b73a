"""RPCs of apps: from AppCreate to AppStop, their deployments and their output."""

import time
from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.apps import STOP_GRACE_S, Apps
from pilotlight.control.environments import Environments
from pilotlight.control.output_log import Filter, OutputLog, line_id_of
from pilotlight.control.tasks import Tasks
from pilotlight.control.timestamps import seconds, timestamp
from pilotlight.control.tokens import Tokens
from pilotlight.core import errors
from pilotlight.rpc.framework import Caller

LOG_STREAM_S = 55.0
_COUNTERS: dict[int, str] = {api_pb2.FILE_DESCRIPTOR_STDOUT: "stdout_logs", api_pb2.FILE_DESCRIPTOR_STDERR: "stderr_logs"}


class AppHandlers:
    """Apps as the client sees them."""

    def __init__(
        self, apps: Apps, environments: Environments, tasks: Tasks, tokens: Tokens, output_log: OutputLog, web_url: str
    ) -> None:
        self._apps = apps
        self._environments = environments
        self._tasks = tasks
        self._tokens = tokens
        self._output_log = output_log
        self._web_url = web_url

    async def AppCreate(self, caller: Caller, request: api_pb2.AppCreateRequest) -> api_pb2.AppCreateResponse:
        app = await self._apps.create(request, caller.client_version, caller.idempotency_key)
        page = self._page(caller, app.app_id)
        return api_pb2.AppCreateResponse(app_id=app.app_id, app_page_url=page, app_logs_url=page)

    def _page(self, caller: Caller, app_id: str) -> str:
        return f"{caller.edge_base_url or self._web_url}/apps/{app_id}"

    async def AppGetOrCreate(self, caller: Caller, request: api_pb2.AppGetOrCreateRequest) -> api_pb2.AppGetOrCreateResponse:
        app = await self._apps.get_or_create(
            request.app_name, request.environment_name, request.object_creation_type, caller.client_version
        )
        return api_pb2.AppGetOrCreateResponse(app_id=app.app_id)

    async def AppLookup(self, caller: Caller, request: api_pb2.AppLookupRequest) -> api_pb2.AppLookupResponse:
        app = await self._apps.by_name(request.app_name, request.environment_name)
        return api_pb2.AppLookupResponse(app_id=app.app_id)

    async def AppGetByDeploymentName(
        self, caller: Caller, request: api_pb2.AppGetByDeploymentNameRequest
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        environment = self._environments.resolve(request.environment_name)
        row = await self._apps.previous_by_name(request.name, request.environment_name)
        if row is None:
            return api_pb2.AppGetByDeploymentNameResponse(environment_name=environment.name)
        if row.stopped_at is not None:
            return api_pb2.AppGetByDeploymentNameResponse(previous_app_id=row.app_id, environment_name=environment.name)
        return api_pb2.AppGetByDeploymentNameResponse(
            app_id=row.app_id, environment_name=environment.name, lifecycle=await self.lifecycle(row.app_id)
        )

    async def AppGetLayout(self, caller: Caller, request: api_pb2.AppGetLayoutRequest) -> api_pb2.AppGetLayoutResponse:
        await self._apps.get(request.app_id)
        return api_pb2.AppGetLayoutResponse(app_layout=await self._apps.layout(request.app_id))

    async def AppGetObjects(self, caller: Caller, request: api_pb2.AppGetObjectsRequest) -> api_pb2.AppGetObjectsResponse:
        layout = await self._apps.layout(request.app_id)
        tags = {object_id: tag for tag, object_id in [*layout.function_ids.items(), *layout.class_ids.items()]}
        items = [
            api_pb2.AppGetObjectsItem(tag=tags[item.object_id], object=item) for item in layout.objects if item.object_id in tags
        ]
        return api_pb2.AppGetObjectsResponse(items=items)

    async def AppPublish(self, caller: Caller, request: api_pb2.AppPublishRequest) -> api_pb2.AppPublishResponse:
        publication = await self._apps.publish(request, caller.token_id, caller.client_version)
        return api_pb2.AppPublishResponse(url=self._page(caller, request.app_id), deployed_at=publication.deployed_at)

    async def AppRollback(self, caller: Caller, request: api_pb2.AppRollbackRequest) -> api_pb2.AppRollbackResponse:
        publication = await self._apps.rollback(request.app_id, request.version, caller.token_id)
        return api_pb2.AppRollbackResponse(url=self._page(caller, request.app_id), deployed_at=publication.deployed_at)

    async def AppRollover(self, caller: Caller, request: api_pb2.AppRolloverRequest) -> api_pb2.AppRolloverResponse:
        publication = await self._apps.rollover(request.app_id, caller.token_id)
        return api_pb2.AppRolloverResponse(url=self._page(caller, request.app_id), deployed_at=publication.deployed_at)

    async def AppHeartbeat(self, caller: Caller, request: api_pb2.AppHeartbeatRequest) -> Empty:
        if not self._apps.heartbeat(request.app_id):
            await self._apps.row(request.app_id)
        return Empty()

    async def AppClientDisconnect(self, caller: Caller, request: api_pb2.AppClientDisconnectRequest) -> Empty:
        await self._apps.disconnect(request)
        return Empty()

    async def AppStop(self, caller: Caller, request: api_pb2.AppStopRequest) -> Empty:
        await self._apps.stop(request.app_id, "somebody asked for it", STOP_GRACE_S)
        return Empty()

    async def AppList(self, caller: Caller, request: api_pb2.AppListRequest) -> api_pb2.AppListResponse:
        running: dict[str, int] = {}
        for task in self._tasks.all():
            running[task.pool.function.app_id] = running.get(task.pool.function.app_id, 0) + 1
        reply = api_pb2.AppListResponse()
        for row in await self._apps.listed(request.environment_name):
            reply.apps.add(
                app_id=row.app_id,
                description=row.description,
                state=row.state,
                created_at=row.created_at,
                stopped_at=row.stopped_at or 0.0,
                n_running_tasks=running.get(row.app_id, 0),
                name=row.name or "",
            )
        return reply

    async def AppGetLifecycle(self, caller: Caller, request: api_pb2.AppGetLifecycleRequest) -> api_pb2.AppGetLifecycleResponse:
        return api_pb2.AppGetLifecycleResponse(lifecycle=await self.lifecycle(request.app_id))

    async def lifecycle(self, app_id: str) -> api_pb2.AppLifecycle:
        """When an app was made, deployed and stopped, and by whom."""
        row = await self._apps.row(app_id)
        deployments = await self._apps.deployments(app_id)
        lifecycle = api_pb2.AppLifecycle(
            app_state=row.state, created_at=row.created_at, version=row.version, stopped_at=row.stopped_at or 0.0
        )
        if deployments:
            newest = deployments[0]
            lifecycle.deployed_at, lifecycle.deployed_by = newest.deployed_at, self._tokens.name_of(newest.deployed_by)
        return lifecycle

    async def AppGetInfo(self, caller: Caller, request: api_pb2.AppGetInfoRequest) -> api_pb2.AppGetInfoResponse:
        row = await self._apps.row(request.app_id)
        function_ids, _ = await self._apps.members(request.app_id)
        info = api_pb2.AppHandleMetadata(
            description=row.description,
            app_id=row.app_id,
            environment_name=self._environment_name(row.environment_id),
            lifecycle=await self.lifecycle(request.app_id),
            functions=function_ids,
        )
        return api_pb2.AppGetInfoResponse(info=info)

    def _environment_name(self, environment_id: str) -> str:
        return next((item.name for item in self._environments.list() if item.environment_id == environment_id), "")

    async def AppDeploymentHistory(
        self, caller: Caller, request: api_pb2.AppDeploymentHistoryRequest
    ) -> api_pb2.AppDeploymentHistoryResponse:
        row = await self._apps.row(request.app_id)
        reply = api_pb2.AppDeploymentHistoryResponse(production_app_version=row.version)
        for deployment in await self._apps.deployments(request.app_id):
            reply.app_deployment_histories.add(
                app_id=deployment.app_id,
                version=deployment.version,
                client_version=deployment.client_version,
                deployed_at=deployment.deployed_at,
                deployed_by=self._tokens.name_of(deployment.deployed_by),
                tag=deployment.tag,
                rollback_version=deployment.rollback_version or 0,
                rollback_allowed=deployment.version != row.version,
                commit_info=api_pb2.CommitInfo.FromString(deployment.commit_info) if deployment.commit_info else None,
            )
        return reply

    async def AppSetTags(self, caller: Caller, request: api_pb2.AppSetTagsRequest) -> Empty:
        await self._apps.set_tags(request.app_id, dict(request.tags))
        return Empty()

    async def AppGetTags(self, caller: Caller, request: api_pb2.AppGetTagsRequest) -> api_pb2.AppGetTagsResponse:
        return api_pb2.AppGetTagsResponse(tags=(await self._apps.get(request.app_id)).tags)

    # ---- output ----

    async def AppGetLogs(self, caller: Caller, request: api_pb2.AppGetLogsRequest) -> AsyncGenerator[api_pb2.TaskLogsBatch]:
        await self._apps.row(request.app_id)
        chosen = Filter(
            app_id=request.app_id,
            function_id=request.parametrized_function_id,
            any_function_id=request.function_id,
            task_id=request.task_id,
            call_id=request.function_call_id,
            input_id=request.input_id,
            file_descriptor=request.file_descriptor,
            search=request.search_text,
        )

        def is_done() -> bool:
            return not self._apps.is_live(request.app_id) and not self._tasks.may_speak(request.app_id)

        follow = self._output_log.follow(chosen, line_id_of(request.last_entry_id), request.timeout or LOG_STREAM_S, is_done)
        async for batch in follow:
            yield batch

    async def AppFetchLogs(self, caller: Caller, request: api_pb2.AppFetchLogsRequest) -> api_pb2.AppFetchLogsResponse:
        await self._apps.row(request.app_id)
        since, until = _seconds(request, "since"), _seconds(request, "until")
        return api_pb2.AppFetchLogsResponse(batches=await self._output_log.fetch(_filter(request), since, until, request.limit))

    async def AppCountLogs(self, caller: Caller, request: api_pb2.AppCountLogsRequest) -> api_pb2.AppCountLogsResponse:
        until = _seconds(request, "until") or time.time()
        since, bucket_s = _seconds(request, "since") or until, request.bucket_secs or 60
        if since > until:
            raise errors.InvalidInput("The span of time ends before it begins: `since` is later than `until`.")
        reply = api_pb2.AppCountLogsResponse(app_id=request.app_id)
        buckets: dict[float, api_pb2.AppCountLogsResponse.LogBucket] = {}
        for start, file_descriptor, count in await self._output_log.count(_filter(request), since, until, bucket_s):
            bucket = buckets.get(start)
            if bucket is None:
                bucket = buckets[start] = reply.buckets.add(bucket_start_at=timestamp(start))
            name = _COUNTERS.get(file_descriptor, "system_logs")
            setattr(bucket, name, getattr(bucket, name) + count)
        return reply


def _filter(request: api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest) -> Filter:
    return Filter(
        app_id=request.app_id,
        function_id=request.parametrized_function_id,
        any_function_id=request.function_id,
        task_id=request.task_id,
        call_id=request.function_call_id,
        file_descriptor=request.source,
        search=request.search_text,
    )


def _seconds(request: api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest, name: str) -> float | None:
    if not request.HasField(name):  # pyright: ignore[reportArgumentType]
        return None
    return seconds(getattr(request, name))
