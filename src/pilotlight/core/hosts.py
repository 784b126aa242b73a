"""Which web function a host name means: `<label>.<domain>`, or a domain of the user's own.

Host names have no case and may end in a dot (RFC 4343, RFC 9110 4.2.3); a port is no part of them.
"""

import re

from pilotlight.core.errors import InvalidInput
from pilotlight.core.labels import LOCAL_DOMAIN

_MAX_NAME_LENGTH = 253  # RFC 1035
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label begins with a letter, or it could be taken for an address.
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?=[a-z]){_LABEL}")


def host_name(host_header: str) -> str:
    """The name in a Host header, in lower case: without port and final dot; of an IPv6 address "[::1]" with its brackets."""
    name = host_header.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")


def label_of(name: str, domain: str) -> str | None:
    """What comes before `.<domain>` in a host name, None where it does not end so; "" never."""
    ending = "." + domain.lower()
    return name[: -len(ending)] or None if name.endswith(ending) else None


def check_custom_domain(name: str, domain: str, owner: str) -> None:
    """Whether a function may be served at a domain of its author's; raises InvalidInput. `owner` is who asks: "Function 'f'".

    The hosts by which blobs, volumes and the functions of others are reached are not for it to take.
    """
    wanted = name.lower()
    if len(wanted) > _MAX_NAME_LENGTH or not _DOMAIN.fullmatch(wanted):
        raise InvalidInput(
            f"{owner}: {name!r} can't be a custom domain. Give the name of a host alone, as in 'shop.example.org': no port, "
            "no address, and other letters in their ASCII form (xn--…)."
        )
    for own in (domain.lower(), LOCAL_DOMAIN):
        if wanted == own or wanted.endswith("." + own):
            raise InvalidInput(f"{owner}: {name!r} can't be a custom domain: {own} and what is below it is the platform's own.")
