"""Host and port of a listener: read from a flag, judged, and explained when taken.

Owns the rule that plain HTTP leaves the machine only where the operator said so.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pilotlight.core.errors import InvalidInput, NotAllowed

LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp


@dataclass(frozen=True)
class Address:
    """Where a listener binds: an IPv4 or IPv6 address and a port; port 0 lets the kernel choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def is_wildcard(self) -> bool:
        return ipaddress.ip_address(self.host).is_unspecified

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


def parse(text: str, option: str) -> Address:
    """Read "HOST:PORT" where HOST is an address or `localhost`. Raises InvalidInput naming the option."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = -1
    if not colon or not 0 <= number <= 65535:
        raise InvalidInput(f"{option} {text!r} is not an address: give an IP address and a port, such as {option} 127.0.0.1:9900")
    return Address(host, number)


def require_private(address: Address, option: str, *, insecure: bool) -> None:
    """Refuse plain HTTP on an address that others can reach. Raises NotAllowed."""
    if insecure or address.is_loopback:
        return
    raise NotAllowed(
        f"{option} {address} can be reached from other machines, and tokens and data would cross the network unencrypted. "
        "Give it a certificate (--tls-cert FILE --tls-key FILE), or bind to 127.0.0.1 (and use ssh -L or a TLS proxy), "
        "or add --insecure if that network is trusted."
    )


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def is_listening(port: int) -> bool:
    """Whether anything on this machine listens on a TCP port."""
    return any(True for _ in _listening_inodes(port))


def holder_of(port: int) -> str:
    """The process that listens on a TCP port, as "name (pid N)"; empty when it can't be seen (another user's, or none)."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not wanted:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(fd.readlink()) in wanted for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # it ended meanwhile, or belongs to somebody else
            continue
    return ""
