"""Who may use a web function that asks for a proxy token: the headers Modal-Key and Modal-Secret, or Authorization with both.

The owner of an API token may use one as well, by a token for one host that the server makes (`modal curl`): Modal-Authorization.

Nothing of a request has been queued or started when it is checked, and the time it takes tells nothing of the secrets.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from pilotlight.core import ids
from pilotlight.core.hosts import host_name
from pilotlight.core.web_tokens import is_web_token
from pilotlight.edge.refusals import Refusal
from pilotlight.wire.platform_pb2 import ProxyToken, WebRoute

KEY_HEADER, SECRET_HEADER = b"modal-key", b"modal-secret"
BEARER_HEADER = b"authorization"  # "Bearer <key>.<secret>"
CALLER_HEADER = b"modal-authorization"  # "Bearer <token for one host>"
_KEY_BEGINNING = f"{ids.PROXY_TOKEN}-".encode()
_UNKNOWN = ProxyToken(secret_hash="0" * 64)


class ProxyAuth:
    """The proxy tokens that are valid now."""

    def __init__(self, signing_key: bytes) -> None:
        self._signing_key = signing_key
        self._tokens: dict[bytes, ProxyToken] = {}

    def set(self, tokens: Iterable[ProxyToken]) -> None:
        """All tokens; those not among them are valid no more."""
        self._tokens = {token.token_id.encode(): token for token in tokens}

    def check(self, route: WebRoute, headers: Mapping[bytes, bytes]) -> None:
        """Raises Refusal (401) unless the route is open to all, or the headers name a token that is valid for its environment."""
        if not route.requires_proxy_auth:
            return
        host = host_name(headers.get(b"host", b"").decode("latin-1"))
        if (caller := _bearer(headers, CALLER_HEADER)) and is_web_token(self._signing_key, caller.decode("latin-1"), host):
            return
        key, secret = _shown(headers)
        if key is None or secret is None:
            raise Refusal(401, f"{route.title} needs a proxy token: send its id as Modal-Key and its secret as Modal-Secret")
        token = self._tokens.get(key, _UNKNOWN)
        is_right = hmac.compare_digest(hashlib.sha256(secret).hexdigest(), token.secret_hash)
        if not is_right or token is _UNKNOWN or (token.scoped and route.environment_id not in token.environment_ids):
            raise Refusal(
                401, f"this proxy token is not valid for {route.title}: it is unknown, revoked, or of another environment"
            )


def credentials(headers: Mapping[bytes, bytes]) -> frozenset[bytes]:
    """Names of the headers that no app is to see: with what they hold it could pass for whoever asked."""
    names = {SECRET_HEADER, CALLER_HEADER}
    if _bearer(headers, BEARER_HEADER).startswith(_KEY_BEGINNING):  # else it is meant for the app
        names.add(BEARER_HEADER)
    return frozenset(names)


def _bearer(headers: Mapping[bytes, bytes], name: bytes) -> bytes:
    scheme, _, token = headers.get(name, b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _shown(headers: Mapping[bytes, bytes]) -> tuple[bytes | None, bytes | None]:
    """The id and the secret that a client sent, however it did."""
    if KEY_HEADER not in headers and (both := _bearer(headers, BEARER_HEADER)):
        key, _, secret = both.partition(b".")
        return key, secret
    return headers.get(KEY_HEADER), headers.get(SECRET_HEADER)
