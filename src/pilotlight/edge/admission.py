"""The door of web functions: which function a request is for, whether it may come in, and which container takes it.

This is all that is common to functions that speak ASGI and to ports of containers: nothing has been read of a request's body, and
nothing sent to a container, when it has been admitted. What is refused raises Refusal, with the answer for the client.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from pilotlight.core import ids
from pilotlight.edge.dispatch import RETRY_SOON, Dispatch, Slot
from pilotlight.edge.proxy_auth import ProxyAuth
from pilotlight.edge.rates import Rates
from pilotlight.edge.refusals import Header, Refusal
from pilotlight.edge.routes import Routes
from pilotlight.wire.platform_pb2 import WebRoute

MAX_BODY_BYTES = 4 << 30

Bind = Callable[[str, Mapping[str, str]], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Head:
    """What the door looks at. `headers` by lower-case name, the last of each name; `query` without "?"."""

    method: str
    query: bytes
    headers: Mapping[bytes, bytes]

    @property
    def host(self) -> str:
        return self.headers.get(b"host", b"").decode("latin-1")


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that may come in. `function_id` is that of the containers that serve it."""

    route: WebRoute
    function_id: str
    call_id: str

    @property
    def headers(self) -> list[Header]:
        """What each response carries: the request's id, by which logs and metrics know it."""
        return id_headers(self.call_id)


@dataclass(frozen=True, slots=True)
class Admission:
    """A request with a container. The slot is to be released when the request has ended."""

    entry: Entry
    slot: Slot


class Door:
    """Checks and waits, in this order: host, proxy token, rate, size, parameters, a container with room."""

    def __init__(self, routes: Routes, proxy_auth: ProxyAuth, rates: Rates, dispatch: Dispatch, bind: Bind) -> None:
        self._routes = routes
        self._proxy_auth = proxy_auth
        self._rates = rates
        self._dispatch = dispatch
        self._bind = bind

    def is_web(self, host: str) -> bool:
        """Whether this Host header means a web function: then `enter` decides, else the edge's own pages."""
        return self._routes.is_web(host)

    def route(self, head: Head) -> WebRoute:
        """The route of a request that may use it; raises Refusal (401, 404, and 503 from an edge that knows of none yet)."""
        route = self._routes.find(head.host)
        if route is None and not self._routes.is_told:
            raise Refusal(503, "the platform is being restarted and has not said yet what is served here; try again", [RETRY_SOON])
        if route is None:
            raise Refusal(404, f"there is no web function at {head.host}; `modal app list` shows what is deployed")
        if route.stopped:
            raise Refusal(404, f"the app of {route.title} has been stopped; deploy it again to serve {head.host}")
        self._proxy_auth.check(route, head.headers)
        return route

    def enter_now(self, head: Head) -> Entry | None:
        """`enter` for what needs no waiting; None, with nothing done, for a parametrized class. Raises Refusal."""
        route = self.route(head)
        if route.parameters:
            return None
        self._check(route, head)
        return Entry(route, route.function_id, ids.new(ids.CALL))

    async def enter(self, head: Head) -> Entry:
        """Let a new request in; raises Refusal. Waits only for the server to name the containers of a parametrized class."""
        route = self.route(head)
        self._check(route, head)
        function_id = route.function_id
        if route.parameters:
            function_id = await self._bind(route.function_id, wanted(route.parameters, head.query))
        return Entry(route, function_id, ids.new(ids.CALL))

    def _check(self, route: WebRoute, head: Head) -> None:
        self._rates.check(route.function_id, route.title)
        announced = head.headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            raise too_large(int(announced))

    async def admit(self, head: Head) -> Admission:
        """`enter`, then wait for a container with room; raises Refusal. A caller that is cancelled has no slot."""
        entry = await self.enter(head)
        return Admission(entry, await self._dispatch.acquire(entry.function_id))


def wanted(names: Sequence[str], query: bytes) -> dict[str, str]:
    """The parameters of these names in a query string; of several of one name the last."""
    return {name: value for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if name in names}


def too_large(size_bytes: int) -> Refusal:
    """The body is over the limit; the rest of it is not read."""
    return Refusal(413, f"the body has {size_bytes} bytes, the limit is {MAX_BODY_BYTES}", [(b"connection", b"close")])


def id_headers(call_id: str) -> list[Header]:
    """The request's id, under both names that people look for."""
    call = call_id.encode()
    return [(b"x-request-id", call), (b"modal-function-call-id", call)]
