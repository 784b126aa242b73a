"""The listening sockets of a platform: made once here, inherited by each process that takes over, never closed in between.

While a process is away, the kernel's backlog holds what connects; so a restart looks like a slow answer, not like a refusal.
"""

import errno
import os
import socket
from pathlib import Path

from pilotlight.config import TUNNELS, Settings
from pilotlight.core.errors import WrongState
from pilotlight.supervisor.addresses import Address, holder_of, is_listening, parse, require_private
from pilotlight.wire.tls import certificate_of

BACKLOG = 1024
KEEPALIVE_S = 60  # of silence on a connection, before its other end is asked whether it is there
KEEPALIVE_AGAIN_S, KEEPALIVE_TIMES = 15, 4  # then it is closed
IP_FREEBIND = 15  # linux/in.h; the socket module does not name it

Listeners = dict[str, socket.socket]


def _taken(address: Address, option: str, exc: OSError) -> WrongState:
    if exc.errno == errno.EADDRINUSE:
        holder = holder_of(address.port)
        return WrongState(
            f"port {address.port} is in use{' by ' + holder if holder else ''}. "
            f"Stop what holds it, or choose another address: {option} {Address(address.host, address.port + 1)}"
        )
    return WrongState(f"can't listen on {address}: {os.strerror(exc.errno or 0)}. Choose another address with {option} HOST:PORT")


def listen_tcp(address: Address, option: str, *, freebind: bool = False, shared: bool = False) -> socket.socket:
    """A TCP listener. Raises WrongState that names who holds the port.

    TCP_NODELAY is set here because accepted connections inherit it and servers do not set it on sockets they are handed.
    `freebind` allows an address that the machine does not have yet. `shared`: another listener of ours takes what comes to one of
    the addresses that this one is for.
    """
    if shared and not freebind and address.port and is_listening(address.port):  # which the kernel would not mind
        raise _taken(address, option, OSError(errno.EADDRINUSE, ""))
    listener = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # inherited too, and the next three
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_AGAIN_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TIMES)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if freebind:
        listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise _taken(address, option, exc) from exc
    return listener


def listen_unix(path: Path) -> socket.socket:
    """A unix listener that only the state's owner can connect to; a leftover file of a dead platform is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    return listener


def _listen_for_tunnels(wanted: str) -> socket.socket:
    """Where the operator said, else at the usual port, else, since another platform may be there, at any."""
    if wanted:
        return listen_tcp(parse(wanted, "--tunnel-tls"), "--tunnel-tls")
    usual = parse(TUNNELS, "--tunnel-tls")
    try:
        return listen_tcp(usual, "--tunnel-tls")
    except WrongState:
        return listen_tcp(Address(usual.host, 0), "--tunnel-tls")


def _bound(listener: socket.socket) -> Address:
    host, port = listener.getsockname()[:2]
    return Address(host, port)


def open_listeners(settings: Settings) -> tuple[Settings, dict[str, Listeners]]:
    """Bind all listeners: settings with the ports that were really bound, and name → socket for each role.

    The edge's `web_link` is absent where `web` listens on all addresses anyway. With TLS it is always there, and has no TLS: what
    containers ask does not leave the machine, and their client knows no certificate of ours. Raises InvalidInput for bad TLS files.
    """
    has_tls = certificate_of(settings) is not None
    api, web = parse(settings.api, "--api"), parse(settings.web, "--web")
    require_private(api, "--api", insecure=settings.insecure or has_tls)
    require_private(web, "--web", insecure=settings.insecure or has_tls)
    shared = has_tls and web.is_wildcard
    opened: Listeners = {}
    try:
        opened["api"] = listen_tcp(api, "--api")
        opened["web"] = listen_tcp(web, "--web", shared=shared)
        resolved = settings.model_copy(update={"api": str(_bound(opened["api"])), "web": str(_bound(opened["web"]))})
        if has_tls or not web.is_wildcard:
            link = Address(resolved.link_local_address, resolved.web_port)
            opened["web_link"] = listen_tcp(link, "--web", freebind=True, shared=shared)
        opened["tunnels"] = _listen_for_tunnels(settings.tunnel_tls)
        resolved = resolved.model_copy(update={"tunnel_tls": str(_bound(opened["tunnels"]))})
        opened["inner"] = listen_unix(settings.inner_socket_path)
        opened["nodes"] = listen_unix(settings.nodes_socket_path)
        opened["edges"] = listen_unix(settings.edges_socket_path)
    except BaseException:
        close_all(opened)
        raise
    edge = {name: opened[name] for name in ("web", "web_link", "tunnels") if name in opened}
    return resolved, {"server": {name: opened[name] for name in ("api", "inner", "nodes", "edges")}, "edge": edge, "node": {}}


def close_all(listeners: Listeners) -> None:
    """Close them; safe to repeat."""
    for listener in listeners.values():
        listener.close()
