"""Signed, expiring URLs: who holds one may do exactly the one thing that it names, until it expires.

What is signed is the method, the path, the expiry and every claim, each under its name, so that none can be changed, added, dropped
or moved to another. The signature is the HMAC-SHA256 of these under the platform's signing key. A HEAD is allowed where GET is.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from pilotlight.core.errors import InvalidInput, NotAllowed

KEY_BYTES = 32
_DOMAIN = "pilotlight url v1"  # keeps these signatures apart from any other use of the key
_EXPIRES, _SIGNATURE = "expires", "signature"


def sign(key: bytes, method: str, path: str, expires_at: int, **claims: str | int) -> str:
    """The query string that permits one request; `expires_at` in seconds since 1970, claims come back from `verify` as strings."""
    if _EXPIRES in claims or _SIGNATURE in claims:
        raise InvalidInput(f"a claim can't be called {_EXPIRES} or {_SIGNATURE}: these names are taken by the signature itself")
    signed = {_EXPIRES: str(expires_at), **{name: str(value) for name, value in claims.items()}}
    return urlencode({**signed, _SIGNATURE: _signature(key, method, path, signed)})


def verify(key: bytes, method: str, path: str, query: Iterable[tuple[str, str]], now: float) -> Mapping[str, str]:
    """The claims of a request, once its signature is found to be ours and not expired; raises NotAllowed.

    `query` is the decoded pairs of the query string, `now` seconds since 1970.
    """
    signed: dict[str, str] = {}
    for name, value in query:
        if name in signed:
            raise NotAllowed(f"the URL names {name!r} twice; use it exactly as it was given out")
        signed[name] = value
    given = signed.pop(_SIGNATURE, "")
    # Compared before anything else is looked at, and as bytes: what a stranger sends may not be ASCII.
    if not hmac.compare_digest(given.encode(), _signature(key, method, path, signed).encode()):
        raise NotAllowed(
            "the URL's signature does not fit this request; use the URL exactly as it was given out, or ask for a new one"
        )
    if now >= int(signed.pop(_EXPIRES)):
        raise NotAllowed("the URL has expired; ask for a new one")
    return signed


def _signature(key: bytes, method: str, path: str, signed: Mapping[str, str]) -> str:
    allowed = "GET" if method == "HEAD" else method
    # Lengths in front make the encoding unambiguous, whatever characters the parts hold.
    parts = [_DOMAIN, allowed, path, *(part for item in sorted(signed.items()) for part in item)]
    message = b"".join(b"%d:%s" % (len(encoded), encoded) for encoded in (part.encode("utf-8", "surrogatepass") for part in parts))
    return urlsafe_b64encode(hmac.digest(key, message, hashlib.sha256)).decode().rstrip("=")
