"""The edge's table of routes, and who may use which.

Two doors lead here: the operator's address, and the link-local one that containers reach. The second serves only what a
container may have; the rest does not exist there.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pilotlight.config import Settings
from pilotlight.core.errors import NotFound, PilotlightError
from pilotlight.edge import errors
from pilotlight.edge.blobs import Blobs
from pilotlight.edge.metrics import EdgeMetrics, Measured, MetricsPage
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


def build(settings: Settings, objects: Objects, signing_key: bytes) -> Starlette:
    """The ASGI app of the edge."""
    figures = EdgeMetrics()
    page = MetricsPage(figures, settings.inner_socket_path)
    routes = [
        *Blobs(objects, signing_key).routes(),
        *Volumes(Places(settings.volumes_path), signing_key).routes(),
        Route("/healthz", healthz),
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
