"""RPCs of function calls: making them, reading their outputs, cancelling them."""

from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from pilotlight.control.call_graph import CallGraphs
from pilotlight.control.calls import MAX_INPUTS_OUTSTANDING, Accepted, Calls
from pilotlight.control.outputs import OUTPUTS_PER_REPLY, Wish
from pilotlight.core.call_tokens import call_token, claims_of, input_token
from pilotlight.rpc.framework import Caller

LONGEST_POLL_S = 60.0
# Where the client has asked before. It gives up at the fourth death of a server within one request; its next one counts anew.
REPEATED_POLL_S = 1.0


class CallHandlers:
    """Function calls as the client sees them. `key` signs the tokens by which a client names its inputs."""

    def __init__(self, calls: Calls, graphs: CallGraphs, key: bytes) -> None:
        self._calls = calls
        self._graphs = graphs
        self._key = key

    def _accepted(self, call_id: str, inputs: list[Accepted]) -> list[api_pb2.FunctionPutInputsResponseItem]:
        return [
            api_pb2.FunctionPutInputsResponseItem(
                idx=item.idx, input_id=item.input_id, input_jwt=input_token(self._key, call_id, item.idx)
            )
            for item in inputs
        ]

    async def FunctionMap(self, caller: Caller, request: api_pb2.FunctionMapRequest) -> api_pb2.FunctionMapResponse:
        call, accepted = await self._calls.start(request, caller.idempotency_key, repeated=caller.is_repeated)
        return api_pb2.FunctionMapResponse(
            function_call_id=call.call_id,
            pipelined_inputs=self._accepted(call.call_id, accepted),
            retry_policy=call.pool.definition.retry_policy,
            function_call_jwt=call_token(self._key, call.call_id),
            sync_client_retries_enabled=True,
            max_inputs_outstanding=MAX_INPUTS_OUTSTANDING,
        )

    async def FunctionPutInputs(
        self, caller: Caller, request: api_pb2.FunctionPutInputsRequest
    ) -> api_pb2.FunctionPutInputsResponse:
        accepted = await self._calls.put_inputs(request.function_call_id, request.inputs)
        return api_pb2.FunctionPutInputsResponse(inputs=self._accepted(request.function_call_id, accepted))

    async def FunctionRetryInputs(
        self, caller: Caller, request: api_pb2.FunctionRetryInputsRequest
    ) -> api_pb2.FunctionRetryInputsResponse:
        call_id = str(claims_of(self._key, request.function_call_jwt)["call_id"])
        wishes = [(int(claims_of(self._key, item.input_jwt)["idx"]), item.input, item.retry_count) for item in request.inputs]
        await self._calls.retry(call_id, wishes)
        return api_pb2.FunctionRetryInputsResponse(input_jwts=[item.input_jwt for item in request.inputs])

    async def FunctionFinishInputs(self, caller: Caller, request: api_pb2.FunctionFinishInputsRequest) -> Empty:
        await self._graphs.call(request.function_call_id)
        self._calls.complete(request.function_call_id)
        return Empty()

    async def FunctionGetOutputs(
        self, caller: Caller, request: api_pb2.FunctionGetOutputsRequest
    ) -> api_pb2.FunctionGetOutputsResponse:
        wish = Wish(
            after_seq=_seq(request.last_entry_id),
            timeout_s=min(request.timeout, REPEATED_POLL_S if caller.is_repeated else LONGEST_POLL_S),
            first_idx=request.start_idx if request.HasField("start_idx") else None,
            last_idx=request.end_idx if request.HasField("end_idx") else None,
            limit=min(request.max_values or OUTPUTS_PER_REPLY, OUTPUTS_PER_REPLY),
        )
        found = await self._calls.outputs(request.function_call_id, wish)
        if request.clear_on_success and not request.timeout:
            self._calls.let_go(request.function_call_id)
        return api_pb2.FunctionGetOutputsResponse(
            outputs=found.items,
            idxs=[item.idx for item in found.items],
            last_entry_id=f"{found.last_seq}-0",
            num_unfinished_inputs=found.unfinished,
        )

    async def FunctionCallCancel(self, caller: Caller, request: api_pb2.FunctionCallCancelRequest) -> Empty:
        await self._calls.cancel(request.function_call_id, terminate_containers=request.terminate_containers)
        return Empty()

    async def FunctionCallGetDataOut(
        self, caller: Caller, request: api_pb2.FunctionCallGetDataRequest
    ) -> AsyncGenerator[api_pb2.DataChunk]:
        async for chunk in self._calls.streams.read(request.function_call_id, request.last_index):
            yield chunk

    async def FunctionCallPutDataOut(self, caller: Caller, request: api_pb2.FunctionCallPutDataRequest) -> Empty:
        await self._calls.streams.put(request.function_call_id, request.data_chunks)
        return Empty()

    async def FunctionCallFromId(
        self, caller: Caller, request: api_pb2.FunctionCallFromIdRequest
    ) -> api_pb2.FunctionCallFromIdResponse:
        row, count = await self._graphs.call(request.function_call_id)
        metadata = api_pb2.FunctionCallHandleMetadata(app_id=row.app_id, function_id=row.function_id)
        return api_pb2.FunctionCallFromIdResponse(function_call_id=row.call_id, num_inputs=count, metadata=metadata)

    async def FunctionCallGetInfo(
        self, caller: Caller, request: api_pb2.FunctionCallGetInfoRequest
    ) -> api_pb2.FunctionCallGetInfoResponse:
        return api_pb2.FunctionCallGetInfoResponse(info=await self._graphs.info(request.function_call_id))

    async def FunctionCallList(self, caller: Caller, request: api_pb2.FunctionCallListRequest) -> api_pb2.FunctionCallListResponse:
        return api_pb2.FunctionCallListResponse(function_calls=await self._graphs.list(request.function_id))

    async def FunctionGetCallGraph(
        self, caller: Caller, request: api_pb2.FunctionGetCallGraphRequest
    ) -> api_pb2.FunctionGetCallGraphResponse:
        return await self._graphs.graph(request.function_call_id)

    async def FunctionAsyncInvoke(
        self, caller: Caller, request: api_pb2.FunctionAsyncInvokeRequest
    ) -> api_pb2.FunctionAsyncInvokeResponse:
        start = api_pb2.FunctionMapRequest(
            function_id=request.function_id,
            parent_input_id=request.parent_input_id,
            function_call_type=api_pb2.FUNCTION_CALL_TYPE_UNARY,
            function_call_invocation_type=api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
            pipelined_inputs=[api_pb2.FunctionPutInputsItem(idx=0, input=request.input)],
        )
        call, _ = await self._calls.start(start, caller.idempotency_key, repeated=caller.is_repeated)
        return api_pb2.FunctionAsyncInvokeResponse(function_call_id=call.call_id)


def _seq(entry_id: str) -> int:
    number = entry_id.partition("-")[0]
    return int(number) if number.isdecimal() else 0
