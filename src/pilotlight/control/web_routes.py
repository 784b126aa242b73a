"""Which function is served at which name: labels and custom domains, of published apps only.

A name belongs to one function at a time, the one that was published last. What edges know is always what is in `_routes`, and what
the rows say after a restart.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from modal_proto import api_pb2

from pilotlight.control.apps import AppRecord, Apps
from pilotlight.control.edges import Edges
from pilotlight.control.environments import Environments
from pilotlight.control.functions import FunctionRecord, Functions
from pilotlight.control.web_definitions import Endpoint, Naming, endpoints_of
from pilotlight.control.web_parameters import parameter_names
from pilotlight.core import errors
from pilotlight.core.labels import Addresses
from pilotlight.store import web as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

STOPPED_FOR_S = 24 * 3600  # so long the address of a stopped app says that it has stopped

WebRoute = platform_pb2.WebRoute


class WebRoutes:
    """All routes. Lives on the event loop's thread."""

    def __init__(
        self,
        *,
        database: Database,
        apps: Apps,
        functions: Functions,
        environments: Environments,
        edges: Edges,
        addresses: Addresses,
        workspace: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._apps = apps
        self._functions = functions
        self._environments = environments
        self._edges = edges
        self._addresses = addresses
        self._workspace = workspace
        self._now = now
        self._routes: dict[str, WebRoute] = {}  # by label
        self._stopped_at: dict[str, float] = {}  # by label

    def __iter__(self) -> Iterator[WebRoute]:
        return iter(list(self._routes.values()))

    def naming(self, app: AppRecord) -> Naming:
        """How functions of an app get their addresses."""
        return Naming(
            addresses=self._addresses,
            workspace=self._workspace,
            web_suffix=self._environments.by_id(app.environment_id).web_suffix,
            app=app.title,
            is_run=app.is_run,
            is_taken=lambda label: self._is_taken(label, app.app_id),
        )

    def _is_taken(self, label: str, app_id: str) -> bool:
        route = self._routes.get(label)
        return route is not None and not route.stopped and route.app_id != app_id

    def function_ids(self, app_id: str) -> set[str]:
        """The functions of an app that are served."""
        return {route.function_id for route in self._routes.values() if route.app_id == app_id and not route.stopped}

    def serves(self, app_id: str) -> bool:
        return any(route.app_id == app_id and not route.stopped for route in self._routes.values())

    async def restore(self) -> list[FunctionRecord]:
        """Rebuild the routes from the rows, before edges connect; returns the functions that are served."""
        rows = await self._database.read(store.names)
        owned = {row.name: (row.label, row.function_id) for row in rows}
        records: list[FunctionRecord] = []
        for function_id in dict.fromkeys(row.function_id for row in rows):
            try:
                record = await self._functions.get(function_id)
                app = await self._apps.get(record.app_id)
            except errors.PilotlightError as error:
                log.warning("route_without_function", function_id=function_id, error=str(error))
                continue
            records.append(record)
            for endpoint in endpoints_of(record.definition):
                mine = (endpoint.label, function_id)
                if owned.get(endpoint.label) == mine:
                    route = _route(app, record, endpoint)
                    del route.custom_domains[:]
                    route.custom_domains.extend(name for name in endpoint.custom_domains if owned.get(name) == mine)
                    self._routes[endpoint.label] = route
        return records

    async def publish(self, app: AppRecord) -> list[FunctionRecord]:
        """Let an app's names be those of what it consists of now; returns its functions that are served."""
        records = [await self._functions.get(function_id) for function_id in await self._web_functions(app)]
        routes = {
            endpoint.label: _route(app, record, endpoint) for record in records for endpoint in endpoints_of(record.definition)
        }
        had = [label for label, route in self._routes.items() if route.app_id == app.app_id]
        if routes or had:
            rows = [row for route in routes.values() for row in _rows(route)]
            await self._database.write(lambda connection: store.set_names(connection, app.app_id, rows))
        for label in had:
            if label not in routes:
                self._drop(label)
        for route in routes.values():
            self._take(route)
        return records

    async def _web_functions(self, app: AppRecord) -> list[str]:
        function_ids, _ = await self._apps.members(app.app_id)
        members = set(function_ids.values())
        rows = await self._database.read(lambda connection: store.handles_of(connection, app.app_id))
        return [row.function_id for row in rows if row.function_id in members and _has_address(row.handle)]

    def _take(self, route: WebRoute) -> None:
        for other in self._routes.values():
            lost = [domain for domain in other.custom_domains if domain in route.custom_domains]
            if lost and other.label != route.label:
                kept = [domain for domain in other.custom_domains if domain not in lost]
                other.custom_domains[:] = kept
                self._edges.send(platform_pb2.EdgeCommand(set_route=other))
        self._stopped_at.pop(route.label, None)
        if self._routes.get(route.label) != route:
            self._routes[route.label] = route
            self._edges.send(platform_pb2.EdgeCommand(set_route=route))

    def _drop(self, label: str) -> None:
        self._routes.pop(label, None)
        self._stopped_at.pop(label, None)
        self._edges.send(platform_pb2.EdgeCommand(drop_route=platform_pb2.DropRoute(label=label)))

    async def stop(self, app_id: str) -> None:
        """The app has ended: its addresses say so from now on."""
        routes = [route for route in self._routes.values() if route.app_id == app_id and not route.stopped]
        for route in routes:
            route.stopped = True
            self._stopped_at[route.label] = self._now()
            self._edges.send(platform_pb2.EdgeCommand(set_route=route))
        if routes:
            await self._database.write(lambda connection: store.set_names(connection, app_id, []))

    async def collect(self) -> int:
        """Forget the addresses of apps that stopped long ago; returns how many."""
        before = self._now() - STOPPED_FOR_S
        old = [label for label, at in self._stopped_at.items() if at < before]
        for label in old:
            self._drop(label)
        return len(old)


def _has_address(handle: bytes) -> bool:
    known = api_pb2.FunctionHandleMetadata.FromString(handle)
    return bool(
        known.web_url
        or known._experimental_flash_urls  # pyright: ignore[reportPrivateUsage]
        or any(method.web_url for method in known.method_handle_metadata.values())
    )


def _route(app: AppRecord, record: FunctionRecord, endpoint: Endpoint) -> WebRoute:
    return WebRoute(
        label=endpoint.label,
        custom_domains=endpoint.custom_domains,
        function_id=record.function_id,
        method_name=endpoint.method_name,
        kind=WebRoute.PORT if endpoint.port else WebRoute.ASGI,
        port=endpoint.port,
        requires_proxy_auth=endpoint.requires_proxy_auth,
        environment_id=app.environment_id,
        app_id=app.app_id,
        title=f"{app.title}.{record.tag.removesuffix('.*')}" + (f".{endpoint.method_name}" if endpoint.method_name else ""),
        parameters=parameter_names(record.definition),
    )


def _rows(route: WebRoute) -> list[dict[str, Any]]:
    names = [(route.label, False), *((domain, True) for domain in route.custom_domains)]
    return [
        {"name": name, "is_domain": is_domain, "label": route.label, "app_id": route.app_id, "function_id": route.function_id}
        for name, is_domain in names
    ]
