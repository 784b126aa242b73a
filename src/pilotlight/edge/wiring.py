"""The objects of an edge, wired."""

import asyncio
import socket
from typing import Any

from starlette.types import ASGIApp

from pilotlight.config import Settings
from pilotlight.edge.admission import Door
from pilotlight.edge.app import ByHost, own_pages
from pilotlight.edge.binding import Binding
from pilotlight.edge.connections import NodeConnections
from pilotlight.edge.dispatch import Dispatch
from pilotlight.edge.exchange import Containers
from pilotlight.edge.link import Link
from pilotlight.edge.metrics import EdgeMetrics
from pilotlight.edge.own_urls import OwnUrls
from pilotlight.edge.ports.exchange import Relay
from pilotlight.edge.ports.upstream import Pool
from pilotlight.edge.proxy_auth import ProxyAuth
from pilotlight.edge.rates import Rates
from pilotlight.edge.records import Records
from pilotlight.edge.routes import Routes
from pilotlight.edge.table import Table
from pilotlight.edge.tunnels import Tunnels
from pilotlight.edge.waiting import Waiting
from pilotlight.edge.web import Web
from pilotlight.edge.websockets import WebSockets
from pilotlight.node.link import node_token
from pilotlight.objects import Objects
from pilotlight.wire.authority import own_certificate
from pilotlight.wire.platform_pb2 import EdgeEvent
from pilotlight.wire.tls import certificate_of


class Edge:
    """Made within the event loop. `app` serves HTTP; `run` holds the stream to the server."""

    def __init__(self, settings: Settings, objects: Objects, signing_key: bytes) -> None:
        self._settings = settings
        self.figures = EdgeMetrics()
        self.routes = Routes(settings.web_domain)
        self._binding = Binding(settings.inner_socket_path)
        proxy_auth = ProxyAuth(signing_key)
        rates = Rates(settings.web_rate_limit, settings.web_workspace_rate_limit)
        self.dispatch = Dispatch(settings.web_max_waiting, self._load_changed)
        self.door = Door(self.routes, proxy_auth, rates, self.dispatch, self._binding.bind)
        self.tunnels = Tunnels(settings.tunnels.domain, settings.tunnel_address, self._answer)
        self._table = Table(self.routes, self.dispatch, proxy_auth, rates, self._binding, self.tunnels)
        self.link = Link(settings.edges_socket_path, node_token(settings), self._table.apply)
        self.link.ask(self.dispatch.loads, self._table.load)
        self.records = Records(self.figures, self.link.keep)
        self.waiting = Waiting()
        self._connections = NodeConnections()
        containers = Containers(self.dispatch, self._connections, objects)
        web = Web(self.door, containers, self.records, self.waiting, settings.web_redirect_after_s)
        sockets = WebSockets(self.door, containers, self.records)
        redirect_after_s = settings.web_redirect_after_s
        urls = OwnUrls(signing_key)
        self.relay = Relay(self.routes, self.door, self.dispatch, self.records, Pool(), redirect_after_s, urls)
        own = own_pages(settings, objects, signing_key, self.figures)
        self.app: ASGIApp = ByHost(self.door.is_web, urls, web, sockets, own)

    async def run(self, tunnels: socket.socket | None = None) -> None:
        """Until cancelled. `tunnels`: the listener of tunnels by TLS."""
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            group.create_task(self.link.run())
            if tunnels is not None:
                certificate = certificate_of(settings) or own_certificate(settings.keys_dir, settings.tunnels.domain)
                await self.link.is_up.wait()  # an edge that was restarted must not deny what it does not know yet
                group.create_task(self.tunnels.serve_tls(tunnels, certificate))

    async def close(self) -> None:
        """Break off what is left."""
        self.tunnels.close()
        await self.waiting.close()
        self._connections.close()
        self.relay.pool.close()

    def _answer(self, event: EdgeEvent) -> None:
        self.link.answer(event)

    def _load_changed(self, function_id: str, is_urgent: bool) -> None:
        self.link.load_changed(function_id, is_urgent)


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end; raises what it failed with."""
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
