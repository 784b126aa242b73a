"""The server dies after it has done what a request asks for and before it answers: the client asks again, with the same key.

Nothing is lost and nothing is done twice, whatever others did between the two.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from modal._utils.grpc_utils import create_channel
from modal_proto import api_grpc, api_pb2
from running_server import RunningServer

from pilotlight.control.replies import REPLY_KEPT_S, Replies

EPHEMERAL = api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL
Ask = Callable[..., Awaitable[Any]]


class Client:
    """Requests with keys of the test's choice."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server

    def ask(self, method: str, request: Any, key: str = "") -> Any:
        return asyncio.run(self._ask(method, request, key or str(uuid.uuid4())))

    async def _ask(self, method: str, request: Any, key: str) -> Any:
        token_id, secret = self._server.token
        metadata = {"x-modal-token-id": token_id, "x-modal-token-secret": secret, "x-idempotency-key": key}
        metadata |= {"x-modal-client-type": "1", "x-modal-client-version": "1.6.4"}
        async with create_channel(self._server.url) as channel:
            return await getattr(api_grpc.ModalClientStub(channel), method)(request, metadata=metadata)

    def crash(self) -> None:
        self._server.stop()
        self._server.start()

    def length(self, queue_id: str) -> int:
        return self.ask("QueueLen", api_pb2.QueueLenRequest(queue_id=queue_id)).len

    def get(self, queue_id: str, key: str = "", count: int = 1) -> list[bytes]:
        return list(self.ask("QueueGet", api_pb2.QueueGetRequest(queue_id=queue_id, n_values=count), key).values)


@pytest.fixture
def asking(server: RunningServer) -> Client:
    return Client(server)


@pytest.fixture
def queue_id(asking: Client) -> str:
    return asking.ask("QueueGetOrCreate", api_pb2.QueueGetOrCreateRequest(object_creation_type=EPHEMERAL)).queue_id


@pytest.fixture
def dict_id(asking: Client) -> str:
    return asking.ask("DictGetOrCreate", api_pb2.DictGetOrCreateRequest(object_creation_type=EPHEMERAL)).dict_id


def test_a_put_whose_items_are_gone_already(asking: Client, queue_id: str) -> None:
    put = api_pb2.QueuePutRequest(queue_id=queue_id, values=[b"1", b"2"])
    asking.ask("QueuePut", put, "put")
    asking.crash()
    assert asking.get(queue_id, count=5) == [b"1", b"2"]
    asking.ask("QueuePut", put, "put")
    assert asking.length(queue_id) == 0


def test_a_get(asking: Client, queue_id: str) -> None:
    asking.ask("QueuePut", api_pb2.QueuePutRequest(queue_id=queue_id, values=[b"1", b"2", b"3"]))
    assert asking.get(queue_id, "get", count=2) == [b"1", b"2"]
    asking.crash()
    assert asking.get(queue_id, "get", count=2) == [b"1", b"2"]
    assert asking.get(queue_id, "another") == [b"3"]


def test_a_pop(asking: Client, dict_id: str) -> None:
    entry = api_pb2.DictEntry(key=b"k", value=b"v")
    asking.ask("DictUpdate", api_pb2.DictUpdateRequest(dict_id=dict_id, updates=[entry]))
    pop = api_pb2.DictPopRequest(dict_id=dict_id, key=b"k")
    assert asking.ask("DictPop", pop, "pop").value == b"v"
    asking.crash()
    asking.ask("DictUpdate", api_pb2.DictUpdateRequest(dict_id=dict_id, updates=[api_pb2.DictEntry(key=b"k", value=b"newer")]))
    assert asking.ask("DictPop", pop, "pop").value == b"v"
    assert asking.ask("DictGet", api_pb2.DictGetRequest(dict_id=dict_id, key=b"k")).value == b"newer"


def test_a_put_that_creates(asking: Client, dict_id: str) -> None:
    entry = api_pb2.DictEntry(key=b"k", value=b"mine")
    put = api_pb2.DictUpdateRequest(dict_id=dict_id, updates=[entry], if_not_exists=True)
    assert asking.ask("DictUpdate", put, "put").created
    asking.crash()
    assert asking.ask("DictUpdate", put, "put").created
    assert not asking.ask("DictUpdate", put, "another").created


def test_answers_are_forgotten_when_nobody_asks_again(asking: Client, queue_id: str, server: RunningServer) -> None:
    asking.ask("QueuePut", api_pb2.QueuePutRequest(queue_id=queue_id, values=[b"1"]), "put")
    now = [0.0]
    use_case = Replies(server.use_cases.database, lambda: now[0])
    now[0] = 1e12
    started_late = Replies(server.use_cases.database, lambda: now[0])
    now[0] += REPLY_KEPT_S - 1
    assert server.call(started_late.collect()) == 0  # while it was down nobody could ask again
    assert server.call(use_case.collect()) == 1
