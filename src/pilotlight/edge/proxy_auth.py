"""Who may use a web function that asks for a proxy token: the headers Modal-Key and Modal-Secret.

Nothing of a request has been queued or started when it is checked, and the time it takes tells nothing of the secrets.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from pilotlight.edge.refusals import Refusal
from pilotlight.wire.platform_pb2 import ProxyToken, WebRoute

KEY_HEADER, SECRET_HEADER = b"modal-key", b"modal-secret"
_UNKNOWN = ProxyToken(secret_hash="0" * 64)


class ProxyAuth:
    """The proxy tokens that are valid now."""

    def __init__(self) -> None:
        self._tokens: dict[bytes, ProxyToken] = {}

    def set(self, tokens: Iterable[ProxyToken]) -> None:
        """All tokens; those not among them are valid no more."""
        self._tokens = {token.token_id.encode(): token for token in tokens}

    def check(self, route: WebRoute, headers: Mapping[bytes, bytes]) -> None:
        """Raises Refusal (401) unless the route is open to all, or the headers name a token that is valid for its environment."""
        if not route.requires_proxy_auth:
            return
        key, secret = headers.get(KEY_HEADER), headers.get(SECRET_HEADER)
        if key is None or secret is None:
            raise Refusal(401, f"{route.title} needs a proxy token: send its id as Modal-Key and its secret as Modal-Secret")
        token = self._tokens.get(key, _UNKNOWN)
        is_right = hmac.compare_digest(hashlib.sha256(secret).hexdigest(), token.secret_hash)
        if not is_right or token is _UNKNOWN or (token.scoped and route.environment_id not in token.environment_ids):
            raise Refusal(
                401, f"this proxy token is not valid for {route.title}: it is unknown, revoked, or of another environment"
            )
