"""RPCs of functions and classes: defining them, finding them, binding parameters and options."""

from modal_proto import api_pb2

from pilotlight.control.apps import Apps
from pilotlight.control.autoscalers import Autoscalers
from pilotlight.control.functions import Functions, data_of
from pilotlight.control.pools import Pools
from pilotlight.control.tokens import Tokens
from pilotlight.control.web_routes import WebRoutes
from pilotlight.core import errors
from pilotlight.core.tasks import TaskState
from pilotlight.rpc.framework import Caller


class FunctionHandlers:
    """Functions as the client sees them."""

    def __init__(
        self, apps: Apps, functions: Functions, pools: Pools, autoscalers: Autoscalers, tokens: Tokens, routes: WebRoutes
    ) -> None:
        self._apps = apps
        self._functions = functions
        self._pools = pools
        self._autoscalers = autoscalers
        self._tokens = tokens
        self._routes = routes

    async def FunctionPrecreate(
        self, caller: Caller, request: api_pb2.FunctionPrecreateRequest
    ) -> api_pb2.FunctionPrecreateResponse:
        naming = self._routes.naming(await self._apps.get(request.app_id))
        function_id, handle = await self._functions.precreate(request, caller.idempotency_key, naming)
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=handle)

    async def FunctionCreate(self, caller: Caller, request: api_pb2.FunctionCreateRequest) -> api_pb2.FunctionCreateResponse:
        app = await self._apps.get(request.app_id)
        function_id, function, handle = await self._functions.create(
            request, caller.client_version, caller.idempotency_key, for_run=app.is_run, naming=self._routes.naming(app)
        )
        return api_pb2.FunctionCreateResponse(
            function_id=function_id, function=function, function_data=data_of(function), handle_metadata=handle
        )

    async def FunctionGet(self, caller: Caller, request: api_pb2.FunctionGetRequest) -> api_pb2.FunctionGetResponse:
        if request.app_version:
            raise errors.NotBuilt("Looking up an older version of a function is not built yet in Pilotlight. Leave `version` out.")
        function_id = await self._apps.find_function(request.app_name, request.object_tag, request.environment_name)
        record = await self._functions.get(function_id)
        return api_pb2.FunctionGetResponse(
            function_id=function_id, handle_metadata=record.handle, function=data_of(record.definition)
        )

    async def FunctionGetById(self, caller: Caller, request: api_pb2.FunctionGetByIdRequest) -> api_pb2.FunctionGetByIdResponse:
        record = await self._functions.get(request.function_id)
        return api_pb2.FunctionGetByIdResponse(function=data_of(record.definition), handle_metadata=record.handle)

    async def FunctionGetSerialized(
        self, caller: Caller, request: api_pb2.FunctionGetSerializedRequest
    ) -> api_pb2.FunctionGetSerializedResponse:
        definition = (await self._functions.get(request.function_id)).definition
        return api_pb2.FunctionGetSerializedResponse(
            function_serialized=definition.function_serialized, class_serialized=definition.class_serialized
        )

    async def FunctionBindParams(
        self, caller: Caller, request: api_pb2.FunctionBindParamsRequest
    ) -> api_pb2.FunctionBindParamsResponse:
        bound_id, handle = await self._functions.bind(request)
        return api_pb2.FunctionBindParamsResponse(bound_function_id=bound_id, handle_metadata=handle)

    async def FunctionGetCurrentStats(
        self, caller: Caller, request: api_pb2.FunctionGetCurrentStatsRequest
    ) -> api_pb2.FunctionStats:
        pool = await self._pools.even_of_stopped(request.function_id)
        ready = [task for task in pool.tasks.values() if task.state in (TaskState.READY, TaskState.DRAINING)]
        return api_pb2.FunctionStats(
            backlog=pool.waiting,
            num_total_tasks=len(ready),
            num_running_inputs=sum(min(task.load, task.slots) for task in ready),
            input_headroom=sum(max(0, task.free_slots) for task in ready),
        )

    async def FunctionGetSchedulingParams(
        self, caller: Caller, request: api_pb2.FunctionGetSchedulingParamsRequest
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        configuration = await self._autoscalers.configuration(request.function_id)
        return api_pb2.FunctionGetSchedulingParamsResponse(autoscaler_configuration=configuration)

    async def FunctionUpdateSchedulingParams(
        self, caller: Caller, request: api_pb2.FunctionUpdateSchedulingParamsRequest
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        who = self._tokens.name_of(caller.token_id) if caller.token_id else f"container {caller.task_id}"
        settings = await self._autoscalers.update(request.function_id, request.settings, caller.token_id, who)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=settings)

    async def ClassCreate(self, caller: Caller, request: api_pb2.ClassCreateRequest) -> api_pb2.ClassCreateResponse:
        await self._apps.get(request.app_id)
        class_id = await self._functions.create_class(request.app_id, request.existing_class_id, caller.idempotency_key)
        return api_pb2.ClassCreateResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata(methods=request.methods))

    async def ClassGet(self, caller: Caller, request: api_pb2.ClassGetRequest) -> api_pb2.ClassGetResponse:
        class_id = await self._apps.find_class(request.app_name, request.object_tag, request.environment_name)
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())
