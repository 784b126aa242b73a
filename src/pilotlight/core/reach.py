"""How a client reaches the edge: by the way on which it reached the API, as far as that can be known.

What a client says in its requests' authority decides only what the same client is told.
"""

import ipaddress
from dataclasses import dataclass

from pilotlight.core.hosts import host_name
from pilotlight.core.labels import LOCAL_DOMAIN, Addresses


@dataclass(frozen=True, slots=True)
class Edge:
    """Where the edge listens: `host` an IP address, perhaps 0.0.0.0 or [::]; and the addresses of web functions."""

    host: str
    port: int
    has_tls: bool
    addresses: Addresses

    @property
    def own_url(self) -> str:
        """For who is on this machine, or asks from nowhere in particular."""
        address = _address(self.host)
        host = self.host if address is None or not address.is_unspecified else ("[::1]" if address.version == 6 else "127.0.0.1")
        return self._at(host)

    def url_for(self, authority: str) -> str:
        """The edge's URL for a client whose requests to the API are addressed so ("host:port", or "" where it does not say).

        By an address: the edge listens at the same one if it listens everywhere, else where it was told to. By a name: a domain of
        web functions leads to the edge, through whatever proxy it has; without one the machine of that name does.
        """
        host = host_name(authority)
        address = _address(host)
        if not host or host == LOCAL_DOMAIN or (address and address.is_loopback):
            return self.own_url
        listens = _address(self.host)
        if address is not None:
            return self._at(host) if listens is None or listens.is_unspecified else self._at(self.host)
        if self.addresses.domain != LOCAL_DOMAIN:
            return self.addresses.custom_url(self.addresses.domain)
        return self._at(host)

    def _at(self, host: str) -> str:
        return f"{'https' if self.has_tls else 'http'}://{host}:{self.port}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
