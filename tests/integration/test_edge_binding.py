"""The edge asks which containers serve a set of parameters: what becomes of the server's answers."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from pilotlight.edge.binding import Binding
from pilotlight.edge.refusals import Refusal
from pilotlight.wire.platform_pb2 import WebBindReply, WebBindRequest


class Answering:
    """The server's end: refuses with `error` if there is one, else gives each set of parameters a function of its own."""

    def __init__(self) -> None:
        self.error: GRPCError | None = None
        self.asked: list[dict[str, str]] = []

    def __mapping__(self) -> dict[str, Handler]:
        return {"/pilotlight.Control/WebBind": Handler(self._bind, Cardinality.UNARY_UNARY, WebBindRequest, WebBindReply)}

    async def _bind(self, stream: Any) -> None:
        request = await stream.recv_message()
        self.asked.append(dict(request.parameters))
        if self.error is not None:
            raise self.error
        await stream.send_message(WebBindReply(function_id=f"fu-{len(self.asked)}"))


def play(tmp_path: Path, scenario: Callable[[Binding, Answering], Awaitable[None]]) -> None:
    async def run() -> None:
        answering = Answering()
        server = Server([answering])
        await server.start(path=str(tmp_path / "inner.sock"))
        try:
            await scenario(Binding(tmp_path / "inner.sock"), answering)
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(run())


def test_each_set_is_asked_for_once_until_it_is_forgotten(tmp_path: Path) -> None:
    async def scenario(binding: Binding, answering: Answering) -> None:
        one, two = {"a": "1", "b": "2"}, {"a": "2"}
        bound = [await binding.bind("fu", wish) for wish in (one, two, {"b": "2", "a": "1"})]
        assert bound == ["fu-1", "fu-2", "fu-1"] and answering.asked == [one, two]
        binding.forget("fu-1")
        assert [await binding.bind("fu", wish) for wish in (one, two)] == ["fu-3", "fu-2"]
        binding.forget("fu")
        assert await binding.bind("fu", two) == "fu-4"

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        (Status.INVALID_ARGUMENT, 400),
        (Status.NOT_FOUND, 404),
        (Status.FAILED_PRECONDITION, 404),
        (Status.RESOURCE_EXHAUSTED, 429),
        (Status.UNAVAILABLE, 503),
    ],
)
def test_why_a_set_is_not_served_decides_the_answer(tmp_path: Path, status: Status, seen: int) -> None:
    async def scenario(binding: Binding, answering: Answering) -> None:
        answering.error = GRPCError(status, "in the server's words")
        with pytest.raises(Refusal, match="in the server's words") as refused:
            await binding.bind("fu", {"a": "1"})
        assert refused.value.status == seen
        assert any(name == b"retry-after" for name, _ in refused.value.headers) is (seen in (429, 503))

    play(tmp_path, scenario)


def test_a_failure_of_the_servers_is_no_mistake_of_the_client(tmp_path: Path) -> None:
    async def scenario(binding: Binding, answering: Answering) -> None:
        answering.error = GRPCError(Status.UNKNOWN, "a secret")
        with pytest.raises(Refusal) as refused:
            await binding.bind("fu", {"a": "1"})
        assert refused.value.status == 500 and "secret" not in refused.value.text

    play(tmp_path, scenario)


def test_a_server_that_is_away_is_no_end(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        asyncio.run(Binding(tmp_path / "nothing.sock").bind("fu", {}))
    assert refused.value.status == 503
