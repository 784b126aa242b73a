"""Which web function a host name means: `<label>.<domain>`, or a domain of the user's own.

Host names have no case and may end in a dot (RFC 4343, RFC 9110 4.2.3); a port is no part of them.
"""


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
