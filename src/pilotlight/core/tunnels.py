"""Where tunnels are reached: `<random label>.<domain>` at the TLS port of all, or a TCP port of its own.

A wildcard certificate counts for names with two more labels behind the star only, so below a domain of one label ("localhost")
tunnels have a domain of their own.
"""

import ipaddress
import secrets
from dataclasses import dataclass

LABEL_LENGTH = 16
_LABEL_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"  # 82 bits: who does not know a name can't guess it
MOST_PORTS = 20_000


def new_label() -> str:
    """A fresh random label; it begins with a letter."""
    first = secrets.choice(_LABEL_ALPHABET[:26])
    return first + "".join(secrets.choice(_LABEL_ALPHABET) for _ in range(LABEL_LENGTH - 1))


def domain_of(web_domain: str) -> str:
    """The domain of tunnels, given that of web functions."""
    return web_domain.lower() if "." in web_domain else f"tunnel.{web_domain.lower()}"


def parse_ports(text: str) -> range:
    """The ports of "20000-20999"; raises ValueError that says what is wrong."""
    first, _, last = text.partition("-")
    if not first.isdecimal() or not last.isdecimal():
        raise ValueError(f"{text!r} is no range of ports such as 20000-20999")
    ports = range(int(first), int(last) + 1)
    if not ports or ports[0] < 1 or ports[-1] > 65_535 or len(ports) > MOST_PORTS:
        raise ValueError(f"{text!r} must go from a port to a higher one, below 65536, and hold at most {MOST_PORTS} of them")
    return ports


@dataclass(frozen=True, slots=True)
class Place:
    """Where clients find the tunnels of a platform. `raw_host`: a name or an address."""

    domain: str
    port: int
    raw_host: str
    raw_ports: range

    def host(self, label: str) -> str:
        """The name of a tunnel."""
        return f"{label}.{self.domain}"


def place_of(web_domain: str, listens_at: str, ports: str) -> Place:
    """From the settings: `listens_at` is the "HOST:PORT" of the TLS listener."""
    host, _, port = listens_at.rpartition(":")
    address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    everywhere = web_domain if "." in web_domain else "127.0.0.1"
    return Place(domain_of(web_domain), int(port), everywhere if address.is_unspecified else str(address), parse_ports(ports))
