"""The processes of a platform, and the only module that wires their objects together.

The supervisor runs `python -m pilotlight.main ROLE --settings FILE` with the sockets that it holds for the role.
"""

import argparse
import asyncio
import gc
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import structlog
import uvloop

from pilotlight import config, logging
from pilotlight.config import Settings
from pilotlight.core.errors import WrongState

log = structlog.get_logger()

GARBAGE_THRESHOLDS = (20_000, 50, 1_000)  # new objects per generation before it is looked through; 700, 10, 10 otherwise


async def serve_server(settings: Settings, sockets: dict[str, socket.socket], ready: Callable[[], None]) -> None:
    """The process that holds the state and decides."""
    from pilotlight.server import Server

    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # a client may have a connection for each of its processes
    server = await Server.open(settings)
    # What waits is many small objects that live long: looking through them for cycles again and again would slow down what comes.
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    await server.listen(sockets["api"], sockets["inner"], sockets["nodes"], sockets["edges"])
    ready()
    log.info("server_ready", api=settings.api)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        loops = [group.create_task(loop) for loop in server.loops(random.Random())]
        await stop.wait()
        for loop in loops:
            loop.cancel()
    await server.close()


async def serve_edge(settings: Settings, sockets: dict[str, socket.socket], ready: Callable[[], None]) -> None:
    """The process that moves HTTP bytes."""
    from pilotlight.edge.server import serve

    tunnels = sockets.pop("tunnels", None)
    await serve(settings, list(sockets.values()), ready, tunnels)


async def serve_node(settings: Settings, _sockets: dict[str, socket.socket], ready: Callable[[], None]) -> None:
    """The process that runs containers."""
    from pilotlight.node.agent import serve

    await serve(settings, ready)


ROLES = {"server": serve_server, "edge": serve_edge, "node": serve_node}


def main() -> None:
    """Run one process of the platform until it is told to end."""
    parser = argparse.ArgumentParser(prog="pilotlight.main", description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--settings", type=Path, required=True)
    arguments = parser.parse_args()
    settings = Settings.load(arguments.settings)
    logging.configure(settings.log_level, arguments.role)
    try:
        uvloop.run(ROLES[arguments.role](settings, config.inherited_sockets(), config.ready))
    except WrongState as error:  # starting it again would not help
        log.error("process_refuses", why=str(error))
        config.refuse(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
