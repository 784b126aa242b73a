"""The edge as a process: uvicorn on sockets that it inherits, until SIGTERM.

A restart drops no connection that still waits: the supervisor holds the listening sockets, and requests under way get `GRACE_S`.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Generator

import structlog
import uvicorn

from pilotlight.config import Settings
from pilotlight.edge.ports.protocol import protocol_with
from pilotlight.edge.websockets import MAX_MESSAGE_BYTES
from pilotlight.edge.wiring import Edge, ended
from pilotlight.objects import Objects, load_or_create_key
from pilotlight.wire.tls import certificate_of

GRACE_S = 10
KEEP_ALIVE_S = 75  # of a connection without a request; browsers and proxies close theirs sooner
BACKLOG = 2048  # connections that wait while the edge is being restarted
FIRST_WORD_S = 20.0  # so long an edge that starts waits to be told of routes before it serves
SIGNING_KEY_FILE = "signing.key"

log = structlog.get_logger()


async def serve(
    settings: Settings, sockets: list[socket.socket], ready: Callable[[], None], tunnels: socket.socket | None = None
) -> None:
    """Serve HTTP on the given listening sockets; calls `ready` once it does, returns after SIGTERM or SIGINT.

    `tunnels`: where tunnels are reached by TLS.
    """
    objects = Objects(settings.objects_dir)
    try:
        removed = await objects.remove_abandoned()
        log.info("edge_starting", abandoned_uploads_removed=removed)
        edge = Edge(settings, objects, load_or_create_key(settings.keys_dir / SIGNING_KEY_FILE))
        for listener in sockets:
            if listener.family in (socket.AF_INET, socket.AF_INET6):
                # asyncio does this only on sockets that it made itself; accepted ones inherit it.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        linking = asyncio.get_running_loop().create_task(edge.run(tunnels))
        try:
            if settings.edges_socket_path.exists():  # what connects meanwhile waits in the sockets' backlog
                await _first_word(edge)
            if linking.done():
                linking.result()  # it can't go on, and says why
            await _Server(_configuration(edge), settings, ready).serve(sockets)
        finally:
            await ended(linking)
            await edge.close()
        log.info("edge_stopped")
    finally:
        objects.close()


async def _first_word(edge: Edge) -> None:
    """Wait for the server to say what there is: an edge that was restarted must not deny what it does not know yet."""
    try:
        async with asyncio.timeout(FIRST_WORD_S):
            await edge.link.is_up.wait()
    except TimeoutError:
        log.warning("edge_knows_nothing_yet", waited_s=FIRST_WORD_S)


def _configuration(edge: Edge) -> uvicorn.Config:
    return uvicorn.Config(
        edge.app,
        http=protocol_with(edge.relay),
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        interface="asgi3",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,  # an app's own would be doubled
        proxy_headers=False,  # see core/forwarded.py
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


class _Server(uvicorn.Server):
    """uvicorn that says when it serves, and for which a signal is a wish rather than something to die of afterwards."""

    def __init__(self, config: uvicorn.Config, settings: Settings, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._plain_door = settings.link_local_address
        self._certificate = certificate_of(settings)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve at all doors; with a certificate all but that of the containers speak TLS."""
        sockets = sockets or []
        plain = [each for each in sockets if self._certificate is None or each.getsockname()[0] == self._plain_door]
        await super().startup(plain)
        if self._certificate is not None:
            served = self.servers
            self.config.ssl = self._certificate.context("http/1.1")
            await super().startup([each for each in sockets if each not in plain])
            self.servers += served
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.should_exit = True
