"""The listener that clients come to: who may ask, how much, and how it is written down."""

import asyncio
import socket
from collections.abc import Iterable

from pilotlight.control.audit import Audit
from pilotlight.control.tokens import Tokens
from pilotlight.core.rates import Paces
from pilotlight.core.reach import Edge
from pilotlight.rpc.auditing import AuditObserver
from pilotlight.rpc.authentication import TokenAuthenticator
from pilotlight.rpc.framework import Service
from pilotlight.wire.listening import Server
from pilotlight.wire.patience import BURST_S, Patience
from pilotlight.wire.tls import Certificate

MOST_CONNECTIONS = 4_000  # of clients, at a time
BACKLOG = 1024  # connections that may wait to be accepted


def public_listener(handlers: Iterable[object], tokens: Tokens, edge: Edge, audit: Audit, requests_per_s: int) -> Server:
    """For clients with tokens; 0 requests a second: as many as they like."""
    paces = Paces(requests_per_s, requests_per_s * BURST_S, asyncio.get_running_loop().time) if requests_per_s else None
    service = Service(handlers, TokenAuthenticator(tokens, edge, audit), observer=AuditObserver(audit), paces=paces)
    return Server([service], most_connections=MOST_CONNECTIONS, patience=Patience(requests_per_s))


async def start(listener: Server, sock: socket.socket, certificate: Certificate | None = None) -> None:
    """Serve at a socket that listens."""
    await listener.start(sock=sock, backlog=BACKLOG, ssl=certificate.context("h2") if certificate else None)
