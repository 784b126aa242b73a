"""What is at which host, and who may use it: web functions at hosts of their own, the edge's own pages at all others.

URLs that the platform has signed are served at every host.

Two doors lead here: the operator's address, and the link-local one that containers reach. At the second the edge's own pages are
only those that a container may have; the rest does not exist there. Web functions are served at both.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pilotlight.config import Settings
from pilotlight.core.errors import NotFound, PilotlightError
from pilotlight.edge import app_pages, errors
from pilotlight.edge.blobs import Blobs
from pilotlight.edge.metrics import EdgeMetrics, Measured, MetricsPage
from pilotlight.edge.own_urls import OwnUrls
from pilotlight.edge.volumes import Volumes
from pilotlight.objects import Objects
from pilotlight.volumes.places import Places

Handler = Callable[[Request], Awaitable[Response]]

REFUSALS = {
    PilotlightError: errors.refuse,
    errors.BodyStalled: errors.stalled,
    ClientDisconnect: errors.abandon,
    Exception: errors.fail,
}


class ByHost:
    """The ASGI app of the edge: for each request the app of its host."""

    def __init__(self, is_web: Callable[[str], bool], urls: OwnUrls, web: ASGIApp, sockets: ASGIApp, own: ASGIApp) -> None:
        self._is_web = is_web
        self._urls = urls
        self._web = web
        self._sockets = sockets
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_socket = scope["type"] == "websocket"
        if not self._is_web(host_of(scope)) or self._is_signed(scope):
            await self._own(scope, receive, send)
        elif is_socket:
            await self._sockets(scope, receive, send)
        else:
            await self._web(scope, receive, send)

    def _is_signed(self, scope: Scope) -> bool:
        return scope["type"] == "http" and self._urls.has(scope["method"], scope["path"], scope["query_string"])


def host_of(scope: Scope) -> str:
    """The Host header, empty where there is none."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")


def own_pages(settings: Settings, objects: Objects, signing_key: bytes, figures: EdgeMetrics) -> Starlette:
    """Blobs, blocks of volumes, pages of apps, metrics and the like."""
    page = MetricsPage(figures, settings.inner_socket_path)
    routes = [
        *Blobs(objects, signing_key).routes(),
        *Volumes(Places(settings.volumes_path), signing_key).routes(),
        Route("/healthz", healthz),
        Route(app_pages.PATH, hidden_from_containers(app_pages.app_page, settings.link_local_address), name="app_page"),
        Route("/metrics", hidden_from_containers(page.metrics, settings.link_local_address), name="metrics"),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Measured, metrics=figures)], exception_handlers=REFUSALS)


async def healthz(request: Request) -> Response:
    """The edge itself is alive; whether the rest is, `pilotlight status` says."""
    return PlainTextResponse("ok\n")


def hidden_from_containers(handler: Handler, link_local_address: str) -> Handler:
    """The handler, but not for what came in by the containers' door."""

    async def guarded(request: Request) -> Response:
        arrived_at = request.scope.get("server")
        if arrived_at and arrived_at[0] == link_local_address:
            raise NotFound(f"there is no {request.url.path} here")
        return await handler(request)

    guarded.__name__ = getattr(handler, "__name__", "guarded")
    return guarded
