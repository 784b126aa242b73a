"""How long a question for outputs waits."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from modal_proto import api_pb2

from pilotlight.control.outputs import Wish
from pilotlight.rpc.calls import LONGEST_POLL_S, REPEATED_POLL_S, CallHandlers
from pilotlight.rpc.framework import Caller


@pytest.mark.parametrize(
    ("asked_s", "is_repeated", "expected_s"),
    [(55.0, False, 55.0), (900.0, False, LONGEST_POLL_S), (55.0, True, REPEATED_POLL_S), (0.0, True, 0.0)],
)
def test_who_asks_again_is_answered_soon(asked_s: float, is_repeated: bool, expected_s: float) -> None:
    wishes: list[Wish] = []

    class Calls:
        async def outputs(self, call_id: str, wish: Wish) -> Any:
            wishes.append(wish)
            return SimpleNamespace(items=[], last_seq=0, unfinished=1)

        def let_go(self, call_id: str) -> None:
            pass

    calls, graphs = Calls(), None
    handlers = CallHandlers(calls, graphs, b"")  # type: ignore[arg-type]
    request = api_pb2.FunctionGetOutputsRequest(function_call_id="fc-1", timeout=asked_s, last_entry_id="0-0")
    reply = asyncio.run(handlers.FunctionGetOutputs(Caller("ak-1", 1, "1.6.4", is_repeated=is_repeated), request))
    assert not reply.outputs
    assert [wish.timeout_s for wish in wishes] == [expected_s]
