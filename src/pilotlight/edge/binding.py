"""Which containers serve a parametrized class's web method: the server says it, once for each set of parameters."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from pilotlight.edge.refusals import Refusal
from pilotlight.wire.platform_grpc import ControlStub
from pilotlight.wire.platform_pb2 import WebBindRequest

BIND_TIMEOUT_S = 10.0
REMEMBERED = 10_000  # sets of parameters

Key = tuple[str, tuple[tuple[str, str], ...]]


class Binding:
    """Asks the server, and remembers its answers until it has been restarted or names other functions."""

    def __init__(self, inner_socket_path: Path) -> None:
        self._inner_socket_path = inner_socket_path
        self._known: OrderedDict[Key, str] = OrderedDict()

    async def bind(self, function_id: str, parameters: Mapping[str, str]) -> str:
        """The function of this set of parameters; raises Refusal (400 with the server's words, or 503)."""
        key = (function_id, tuple(sorted(parameters.items())))
        if known := self._known.get(key):
            self._known.move_to_end(key)
            return known
        try:
            async with asyncio.timeout(BIND_TIMEOUT_S), Channel(path=str(self._inner_socket_path)) as channel:
                request = WebBindRequest(function_id=function_id, parameters=dict(parameters))
                bound = (await ControlStub(channel).WebBind(request)).function_id
        except GRPCError as error:
            raise Refusal(400, error.message or "these parameters do not fit the class") from error
        except (OSError, TimeoutError, StreamTerminatedError) as error:
            raise Refusal(503, "the server is being restarted; try again", [(b"retry-after", b"1")]) from error
        self._known[key] = bound
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return bound

    def forget(self, function_id: str) -> None:
        """A function has gone, bound or binding."""
        gone = [key for key, bound in self._known.items() if function_id in (key[0], bound)]
        for key in gone:
            del self._known[key]

    def clear(self) -> None:
        """The server begins anew."""
        self._known.clear()
