"""Who a request is from when a proxy stands in between: X-Forwarded-For and X-Forwarded-Proto.

Only a proxy on this machine is believed; what strangers write into these headers is for the app to judge.
"""

from collections.abc import Mapping

LOOPBACK = frozenset(("127.0.0.1", "::1", "::ffff:127.0.0.1"))
_SCHEMES = {b"http": ("http", "ws"), b"ws": ("http", "ws"), b"https": ("https", "wss"), b"wss": ("https", "wss")}

Address = tuple[str, int]


def client_and_scheme(headers: Mapping[bytes, bytes], client: Address | None, scheme: str) -> tuple[Address | None, str]:
    """The client's address and the scheme it used ("http", "https", "ws", "wss"): those of the connection, or as its proxy says."""
    if client is None or client[0] not in LOOPBACK:
        return client, scheme
    if forwarded := headers.get(b"x-forwarded-proto"):
        secure = _SCHEMES.get(forwarded.rpartition(b",")[2].strip().lower())
        if secure is not None:
            scheme = secure[scheme.startswith("ws")]
    if forwarded := headers.get(b"x-forwarded-for"):
        # Each proxy adds at the end whom it was asked by: the last that is not one of ours is the client.
        for hop in reversed(forwarded.decode("latin-1").split(",")):
            address = hop.strip()
            if address and address not in LOOPBACK:
                return (address, 0), scheme
    return client, scheme
