"""Clients that ask too much, or nothing, over real sockets: they are held or dropped, and others do not notice."""

import asyncio
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import uvloop
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from grpclib.client import Channel
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientStub

from pilotlight.core import errors
from pilotlight.core.rates import Paces
from pilotlight.rpc.framework import REFUSED_HOLD_S, Caller, Service
from pilotlight.wire import bulk
from pilotlight.wire.listening import STREAMS_PER_CONNECTION, Server
from pilotlight.wire.patience import Patience

DEADLINE_S = 150
PATH = "/modal.client.ModalClient/"
LARGE = b"x" * (32 << 20)
# Sends as many requests as a connection takes, as fast as it can, in a process of its own.
FLOOD = """
import socket, sys
import h2.config, h2.connection
client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
client._open_streams = lambda remainder: 0
client.initiate_connection()
fields = [(":method", "POST"), (":scheme", "http"), (":path", "/modal.client.ModalClient/ClientHello"), (":authority", "here")]
fields += [("te", "trailers"), ("content-type", "application/grpc"), ("x-modal-token-id", "ak-flood")]
def requests():
    for _ in range(int(sys.argv[2])):
        number = client.get_next_available_stream_id()
        client.send_headers(number, fields)
        client.send_data(number, bytes(5), end_stream=True)
        yield client.data_to_send()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.sendall(client.data_to_send())
    while client.remote_settings.max_concurrent_streams != 10_000:
        client.receive_data(connection.recv(1 << 16))
    connection.sendall(client.data_to_send())  # its limits are taken note of: before, there are others
    sent = list(requests())
    print("begins", flush=True)
    connection.sendall(b"".join(sent))
    while connection.recv(1 << 16):
        pass
"""


class Handlers:
    """Some of the service."""

    def __init__(self) -> None:
        self.calls = 0
        self.waiting = 0
        self.opened = asyncio.Event()

    async def ClientHello(self, caller: Caller, request: Any) -> api_pb2.ClientHelloResponse:
        self.calls += 1
        return api_pb2.ClientHelloResponse()

    async def FunctionGetOutputs(self, caller: Caller, request: Any) -> api_pb2.FunctionGetOutputsResponse:
        self.waiting += 1
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1
        return api_pb2.FunctionGetOutputsResponse()

    async def DictGet(self, caller: Caller, request: Any) -> api_pb2.DictGetResponse:
        return api_pb2.DictGetResponse(found=True, value=LARGE)

    async def DictUpdate(self, caller: Caller, request: Any) -> api_pb2.DictUpdateResponse:
        return api_pb2.DictUpdateResponse()


def authenticate(metadata: Any) -> Caller:
    token_id = str(metadata.get("x-modal-token-id", ""))
    if not token_id:
        raise errors.BadCredentials("No token was sent.")
    return Caller(token_id, 1, "1.6.4")


class Serving:
    """A server for strangers, as that of the platform."""

    def __init__(self, patience: Patience, rate: float = 0.0) -> None:
        self.handlers = Handlers()
        paces = Paces(rate, rate, asyncio.get_running_loop().time) if rate else None
        self._server = Server([Service([self.handlers], authenticate, paces=paces)], patience=patience)
        self.connections = self._server._transports

    async def __aenter__(self) -> "Serving":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        await self._server.start(sock=self._listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._server.abort()
        await self._server.wait_closed()

    def channel(self) -> Channel:
        return Channel("127.0.0.1", self.port)


class Raw:
    """A client that does only what it is told: not even reading."""

    def __init__(self, port: int, token_id: str = "ak-raw", receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)
        self._token_id = token_id
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2._open_streams = lambda remainder: 0  # this client does not count, and the library would take long to
        self.h2.initiate_connection()

    async def flush(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, self.h2.data_to_send())

    def request(self, method: str, message: bytes | None = b"", announced: int | None = None) -> int:
        """Begin a request; without a message it is never sent."""
        number = self.h2.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", PATH + method), (":authority", "here")]
        headers += [("te", "trailers"), ("content-type", "application/grpc"), ("x-modal-token-id", self._token_id)]
        self.h2.send_headers(number, headers)
        if message is not None:
            head = struct.pack(">?I", False, len(message) if announced is None else announced)
            self.h2.send_data(number, head + message, end_stream=announced is None)
        return number

    async def events(self) -> list[Any]:
        """What comes next; raises ConnectionError at the end."""
        data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16)
        if not data:
            raise ConnectionResetError
        return self.h2.receive_data(data)

    async def until(self, kind: type) -> Any:
        while True:
            for event in await self.events():
                if isinstance(event, kind):
                    return event

    async def ended(self) -> None:
        """Return once the server has dropped it, reading what comes and answering nothing."""
        with suppress(ConnectionError):
            while await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16):
                pass
        self.socket.close()


def within(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await scenario()

    uvloop.run(run())


async def hello(channel: Channel, token_id: str = "ak-good") -> float:
    """A small call; how long it took."""
    started = time.perf_counter()
    await ModalClientStub(channel).ClientHello(Empty(), metadata={"x-modal-token-id": token_id})
    return time.perf_counter() - started


def test_who_gives_no_sign_of_life_is_dropped_and_its_calls_end() -> None:
    async def scenario() -> None:
        async with Serving(Patience(silent_s=0.3, answer_s=0.3, first_request_s=30)) as serving, serving.channel() as good:
            half_open = Raw(serving.port)
            half_open.request("FunctionGetOutputs")
            await half_open.flush()
            await hello(good)
            await half_open.ended()
            while serving.handlers.waiting:  # noqa: ASYNC110 - turns of the loop, not time
                await asyncio.sleep(0)
            await hello(good)  # has answered, or has asked for something, all the time
            assert len(serving.connections) == 1

    within(scenario)


def test_who_only_takes_a_place_is_dropped_though_it_answers() -> None:
    async def scenario() -> None:
        async with Serving(Patience(silent_s=0.2, answer_s=5, first_request_s=0.6)) as serving:
            nothing = socket.create_connection(("127.0.0.1", serving.port))  # not even the preface of HTTP/2
            nothing.setblocking(False)
            stranger = Raw(serving.port, token_id="")
            stranger.request("ClientHello")
            await stranger.flush()
            trailers = await stranger.until(h2.events.ResponseReceived)
            assert (b"grpc-status", str(Status.UNAUTHENTICATED.value).encode()) in trailers.headers
            with pytest.raises(ConnectionError):
                while True:
                    await stranger.events()
                    await stranger.flush()  # answers to signs of life
            with suppress(ConnectionError):
                while await asyncio.get_running_loop().sock_recv(nothing, 1000):
                    pass
            assert not serving.connections
            nothing.close(), stranger.socket.close()

    within(scenario)


def test_who_never_reads_is_dropped() -> None:
    async def scenario() -> None:
        patience = Patience(silent_s=0.3, answer_s=0.3, first_request_s=30, unread_s=0.5)
        async with Serving(patience) as serving, serving.channel() as good:
            deaf = Raw(serving.port, receive_buffer=4096)
            deaf.h2.increment_flow_control_window((1 << 31) - 1 - 65535)
            deaf.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: (1 << 31) - 1})
            for _ in range(8):
                deaf.request("DictGet")
            await deaf.flush()
            await hello(good)
            while len(serving.connections) > 1:
                await hello(good)
                deaf.h2.ping(b"12345678")  # it lives, it only does not read
                with suppress(ConnectionError):
                    await deaf.flush()
                await asyncio.sleep(0.05)
            deaf.socket.close()

    within(scenario)


def test_ten_thousand_requests_that_wait_hold_up_nobody_and_no_more_are_taken() -> None:
    async def scenario() -> None:
        async with Serving(Patience()) as serving, serving.channel() as good:
            usual = statistics.median([await hello(good) for _ in range(50)])
            many = Raw(serving.port)
            await many.flush()
            await many.until(h2.events.RemoteSettingsChanged)
            for number in range(STREAMS_PER_CONNECTION):
                many.request("FunctionGetOutputs")
                if number % 500 == 0:
                    await many.flush()
                    await asyncio.sleep(0)
            await many.flush()
            while serving.handlers.waiting < STREAMS_PER_CONNECTION:
                await hello(good)
            now = statistics.median([await hello(good) for _ in range(50)])
            assert now < 10 * usual + 0.02, (usual, now)
            many.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 20_000  # from here on it does as it likes
            many.h2.remote_settings.acknowledge()
            many.request("FunctionGetOutputs")
            await many.flush()
            await many.ended()
            while serving.handlers.waiting:
                await hello(good)

    within(scenario)


def test_a_message_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async def scenario() -> None:
        async with Serving(Patience()) as serving:
            raw = Raw(serving.port)
            raw.request("DictUpdate", b"", announced=bulk.MAX_MESSAGE_BYTES + 1)
            await raw.flush()
            answer = await raw.until(h2.events.ResponseReceived)
            headers = dict(answer.headers)
            assert headers[b"grpc-status"] == str(Status.RESOURCE_EXHAUSTED.value).encode()
            assert b"128 MiB" in headers[b"grpc-message"]
            raw.request("ClientHello")  # the connection goes on
            await raw.flush()
            await raw.until(h2.events.ResponseReceived)
            raw.socket.close()

    within(scenario)


def test_large_messages_pass_and_too_many_at_once_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_UNDERWAY_BYTES", 100 << 20)

    async def scenario() -> None:
        async with Serving(Patience()) as serving, serving.channel() as good:
            client, metadata = ModalClientStub(good), {"x-modal-token-id": "ak-good"}
            reply = await client.DictGet(api_pb2.DictGetRequest(), metadata=metadata)
            assert reply.value == LARGE
            greedy = Raw(serving.port)  # it opens no window, so that nothing of it can be sent
            numbers = [greedy.request("DictGet") for _ in range(5)]
            await greedy.flush()
            refused: set[int] = set()
            while len(refused) < 2:
                for event in await greedy.events():
                    headers = dict(getattr(event, "headers", ()))
                    if headers.get(b"grpc-status") == str(Status.RESOURCE_EXHAUSTED.value).encode():
                        refused.add(event.stream_id)
            assert refused == set(numbers[3:])
            assert (await client.DictGet(api_pb2.DictGetRequest(), metadata=metadata)).value == LARGE
            greedy.socket.close()

    within(scenario)


def test_a_token_that_is_wrong_is_told_before_its_message_has_come() -> None:
    async def scenario() -> None:
        async with Serving(Patience()) as serving, serving.channel() as bad:
            with pytest.raises(GRPCError) as refused:
                await ModalClientStub(bad).DictUpdate(api_pb2.DictUpdateRequest(updates=[api_pb2.DictEntry(key=b"k", value=LARGE)]))
            assert refused.value.status is Status.UNAUTHENTICATED

    within(scenario)


def test_who_tries_many_tokens_on_a_connection_does_so_slowly() -> None:
    async def scenario() -> None:
        async with Serving(Patience()) as serving, serving.channel() as good:
            guessing = Raw(serving.port, token_id="")
            await guessing.flush()
            await guessing.until(h2.events.RemoteSettingsChanged)
            for _ in range(2000):
                guessing.request("ClientHello")
            await guessing.flush()
            await guessing.until(h2.events.ResponseReceived)
            for _ in range(50):
                await hello(good)
            guessing.socket.setblocking(False)
            answered = 1
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    while True:
                        answered += sum(isinstance(event, h2.events.ResponseReceived) for event in await guessing.events())
            assert answered < 1000, answered
            guessing.socket.close()

    within(scenario)


def test_wrong_tokens_hold_up_nobody_who_shares_the_connection() -> None:
    """A proxy has one connection for all of its clients."""

    async def scenario() -> None:
        async with Serving(Patience()) as serving, serving.channel() as shared:
            await hello(shared)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(20):
                with pytest.raises(GRPCError) as refused:
                    await ModalClientStub(shared).ClientHello(Empty())
                assert refused.value.status is Status.UNAUTHENTICATED
                await hello(shared)
            assert loop.time() - began < 20 * REFUSED_HOLD_S

    within(scenario)


@pytest.mark.parametrize("connections", [1, 4])
def test_a_flood_is_held_back_and_another_client_works_at_its_usual_speed(connections: int) -> None:
    rate, seconds = 200.0, 3.0

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with Serving(Patience(requests_per_s=rate), rate) as serving, serving.channel() as good:
            await hello(good)
            serving.handlers.calls = 0
            command = [sys.executable, "-c", FLOOD, str(serving.port), "3000"]
            floods = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(connections)]
            for each in floods:
                assert each.stdout is not None
                await each.stdout.readline()
            began = loop.time()
            between: list[int] = []  # requests of the flood that were served while one of another client was
            while loop.time() < began + seconds or len(between) < 20:
                before = serving.handlers.calls
                await hello(good)
                between.append(serving.handlers.calls - before - 1)
                await asyncio.sleep(0.02)
            answered, elapsed = serving.handlers.calls - len(between), loop.time() - began
            for each in floods:
                each.kill()
                await each.wait()
            # Counted, not timed: how fast this machine is at the moment does not matter.
            assert answered < rate * (elapsed + 2) + connections * 300, (answered, elapsed)
            assert statistics.median(between) <= 20 * connections, between
            assert max(between) <= 300 * connections + rate, between

    within(scenario)


def test_who_is_held_loses_nothing() -> None:
    async def scenario() -> None:
        rate = 200.0
        async with Serving(Patience(requests_per_s=rate), rate) as serving, serving.channel() as busy:
            started = time.perf_counter()
            await asyncio.gather(*(hello(busy) for _ in range(600)))
            assert time.perf_counter() - started > 1.5
            assert serving.handlers.calls == 600

    within(scenario)
