"""The addresses of web functions: `<workspace>[-<suffix>]--<app>-<function>[-dev].<domain>`, the first part of which is the label.

A label is what one name of a host may be (RFC 1035): 63 lower-case letters, digits and hyphens. A longer one is cut, and ends with
the beginning of the SHA-256 of the whole, so that two long names that begin alike stay two.
"""

import hashlib
import re
from dataclasses import dataclass

MAX_LABEL_LENGTH = 63
HASH_LENGTH = 6
DEFAULT_EPHEMERAL_SUFFIX = "dev"
LOCAL_DOMAIN = "localhost"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Label:
    """The first part of an address."""

    text: str
    truncated: bool


def slug(text: str) -> str:
    """The text as part of a host name: what is neither letter nor digit becomes a hyphen."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")


def label_of(*, workspace: str, web_suffix: str, app: str, function: str, requested: str = "", ephemeral_suffix: str = "") -> Label:
    """The label of a function ("fn", or "Class.method"), or that of the label which its author asked for.

    `ephemeral_suffix` is empty for a deployed app.
    """
    source = "-".join(filter(None, (slug(workspace), slug(web_suffix))))
    name = slug(requested) if requested else "-".join(filter(None, (slug(app), slug(function))))
    whole = f"{source}--{name}" + (f"-{slug(ephemeral_suffix)}" if ephemeral_suffix else "")
    if len(whole) <= MAX_LABEL_LENGTH:
        return Label(whole, truncated=False)
    digest = hashlib.sha256(whole.encode()).hexdigest()[:HASH_LENGTH]
    return Label(f"{whole[: MAX_LABEL_LENGTH - HASH_LENGTH - 1]}-{digest}", truncated=True)


@dataclass(frozen=True, slots=True)
class Addresses:
    """What surrounds the label in the address of a web function."""

    domain: str
    scheme: str  # "http" or "https"
    port: int

    def url(self, label: str) -> str:
        """The address of a label, without a slash at its end."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{label}.{self.domain}{port}"

    def custom_url(self, domain: str) -> str:
        """The address at a domain of the user's own."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{domain}{port}"

    def moved(self, url: str) -> str:
        """An address from before a change of domain or port, as it is now. The empty one stays empty."""
        return self.url(label_in(url)) if url else ""


def addresses_of(domain: str, web_port: int, *, has_tls: bool, is_open: bool = False) -> Addresses:
    """HTTPS at our port with our own certificates, HTTPS at an operator's proxy for a domain without them, else HTTP at our port.

    `is_open`: plain HTTP is served to the network, so that no proxy is needed.
    """
    if has_tls:
        return Addresses(domain, "https", web_port)
    if domain != LOCAL_DOMAIN and not is_open:
        return Addresses(domain, "https", _DEFAULT_PORTS["https"])
    return Addresses(domain, "http", web_port)


def label_in(url: str) -> str:
    """The label of an address of ours."""
    return url.partition("://")[2].partition(".")[0]
