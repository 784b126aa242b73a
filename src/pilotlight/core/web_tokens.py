"""Short-lived tokens that let the owner of an API token pass the proxy authentication of one host (`modal curl`).

JSON Web Tokens (RFC 7519, HS256) under a key of their own, derived from the platform's signing key: nothing else that is signed
with that key passes for one.
"""

import hashlib
import hmac

import jwt

WEB_TOKEN_TTL_S = 5 * 60


def _key(signing_key: bytes) -> bytes:
    return hmac.digest(signing_key, b"pilotlight web token v1", hashlib.sha256)


def web_token(signing_key: bytes, host: str, now: float) -> str:
    """A token for requests to a host (without port)."""
    return jwt.encode({"aud": host.lower(), "exp": int(now) + WEB_TOKEN_TTL_S}, _key(signing_key), "HS256")


def is_web_token(signing_key: bytes, token: str, host: str) -> bool:
    """Whether this is a token of ours for the host (without port) that has not expired."""
    try:
        jwt.decode(token, _key(signing_key), ["HS256"], audience=host.lower(), options={"require": ["aud", "exp"]})
    except jwt.InvalidTokenError:
        return False
    return True
