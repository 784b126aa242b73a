"""Which containers serve a parametrized class's web method: the server says it, once for each set of parameters."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import structlog
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from pilotlight.edge.dispatch import RETRY_SOON
from pilotlight.edge.refusals import Refusal
from pilotlight.wire.platform_grpc import ControlStub
from pilotlight.wire.platform_pb2 import WebBindRequest

log = structlog.get_logger()

BIND_TIMEOUT_S = 10.0
REMEMBERED = 10_000  # sets of parameters

_STATUS = {
    Status.INVALID_ARGUMENT: 400,
    Status.NOT_FOUND: 404,
    Status.FAILED_PRECONDITION: 404,  # its app has stopped
    Status.RESOURCE_EXHAUSTED: 429,
    Status.UNAVAILABLE: 503,
}

Key = tuple[str, tuple[tuple[str, str], ...]]


class Binding:
    """Asks the server, and remembers its answers until it has been restarted or names other functions."""

    def __init__(self, inner_socket_path: Path) -> None:
        self._inner_socket_path = inner_socket_path
        self._known: OrderedDict[Key, str] = OrderedDict()

    async def bind(self, function_id: str, parameters: Mapping[str, str]) -> str:
        """The function of this set of parameters; raises Refusal with the server's words."""
        key = (function_id, tuple(sorted(parameters.items())))
        if known := self._known.get(key):
            self._known.move_to_end(key)
            return known
        try:
            async with asyncio.timeout(BIND_TIMEOUT_S), Channel(path=str(self._inner_socket_path)) as channel:
                request = WebBindRequest(function_id=function_id, parameters=dict(parameters))
                bound = (await ControlStub(channel).WebBind(request)).function_id
        except GRPCError as error:
            raise _refusal(error) from error
        except (OSError, TimeoutError, StreamTerminatedError) as error:
            raise Refusal(503, "the server is being restarted; try again", [RETRY_SOON]) from error
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


def _refusal(error: GRPCError) -> Refusal:
    status = _STATUS.get(error.status, 500)
    if status == 500:
        log.error("binding_failed", status=error.status.name, cause=error.message)
        return Refusal(500, "the platform failed to find the containers of these parameters; the edge's log has the cause")
    return Refusal(status, error.message or "these parameters do not fit the class", [RETRY_SOON] if status in (429, 503) else [])
