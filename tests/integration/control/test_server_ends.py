"""The end of the server: prompt, whoever is connected and waits."""

import asyncio
import socket
from pathlib import Path

import uvloop
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError
from heart import Heart
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientStub


def test_clients_that_wait_for_outputs_do_not_hold_up_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        heart = Heart(tmp_path)
        await heart.open()
        api = socket.create_server(("127.0.0.1", 0))
        inner, nodes, edges = (socket.socket(socket.AF_UNIX) for _ in range(3))
        for name, listener in (("inner", inner), ("nodes", nodes), ("edges", edges)):
            listener.bind(str(tmp_path / f"{name}.sock"))
            listener.listen()
        await heart.server.listen(api, inner, nodes, edges)
        call = await heart.call(await heart.define())
        token_id, _, secret = heart.settings.first_token_path.read_text().strip().partition(":")
        metadata = {"x-modal-token-id": token_id, "x-modal-token-secret": secret}
        async with Channel(*api.getsockname()) as channel:
            request = api_pb2.FunctionGetOutputsRequest(function_call_id=call.call_id, timeout=50)
            waiting = asyncio.ensure_future(ModalClientStub(channel).FunctionGetOutputs(request, metadata=metadata))
            while not call.waiters:  # noqa: ASYNC110 - turns of the loop, not time
                await asyncio.sleep(0)
            async with asyncio.timeout(25):
                await heart.close()
            [outcome] = await asyncio.gather(waiting, return_exceptions=True)
            assert isinstance(outcome, GRPCError | StreamTerminatedError | ConnectionError)

    uvloop.run(scenario())
