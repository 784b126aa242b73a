"""Sealing: what is secret is on disk only as AES-256-GCM under the platform's key, bound to the row that it belongs to.

A sealed value is: one byte for this layout, 8 that tell its key, 12 of nonce, then the ciphertext with its tag.
"""

import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pilotlight.core.errors import WrongState

_LAYOUT = b"\x01"
_KEY_MARK_BYTES = 8
_NONCE_BYTES = 12
MARK_BYTES = len(_LAYOUT) + _KEY_MARK_BYTES


class Seal:
    """Seals bytes under the first of these keys (32 bytes each), and opens what any of them sealed."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {_mark_of(key): AESGCM(key) for key in reversed(keys)}
        self.mark = _mark_of(keys[0])
        """How all begins that is sealed under the first key: MARK_BYTES."""

    def seal(self, owner_id: str, plain: bytes) -> bytes:
        """Bytes that only this key opens, and only for the same owner."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return self.mark + nonce + self._ciphers[self.mark].encrypt(nonce, plain, owner_id.encode())

    def open(self, owner_id: str, sealed: bytes) -> bytes:
        """The bytes that were sealed; raises WrongState if the key or the owner is another one."""
        nonce = sealed[MARK_BYTES : MARK_BYTES + _NONCE_BYTES]
        try:
            cipher = self._ciphers.get(sealed[:MARK_BYTES])
            if cipher is None:
                raise InvalidTag
            return cipher.decrypt(nonce, sealed[MARK_BYTES + _NONCE_BYTES :], owner_id.encode())
        except InvalidTag as error:
            raise WrongState(
                f"{owner_id} can't be unsealed: the key file of this platform is not the one that it was sealed with. "
                "Put the old key file (`keys/secrets.key`, or the operator's) back, or create the secret again."
            ) from error


def _mark_of(key: bytes) -> bytes:
    return _LAYOUT + hashlib.sha256(b"pilotlight secrets key " + key).digest()[:_KEY_MARK_BYTES]
