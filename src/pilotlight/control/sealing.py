"""Sealing: what is secret is on disk only as AES-256-GCM under the platform's key, bound to the row that it belongs to."""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pilotlight.core.errors import WrongState

_VERSION = b"\x01"
_NONCE_BYTES = 12


class Seal:
    """Seals and opens bytes under one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, owner_id: str, plain: bytes) -> bytes:
        """Bytes that only this key opens, and only for the same owner."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain, owner_id.encode())

    def open(self, owner_id: str, sealed: bytes) -> bytes:
        """The bytes that were sealed; raises WrongState if the key or the owner is another one."""
        nonce = sealed[1 : 1 + _NONCE_BYTES]
        try:
            if sealed[:1] != _VERSION:
                raise InvalidTag
            return self._cipher.decrypt(nonce, sealed[1 + _NONCE_BYTES :], owner_id.encode())
        except InvalidTag as error:
            raise WrongState(
                f"{owner_id} can't be unsealed: the key file of this state directory is not the one that it was sealed with. "
                "Put the old `keys/secrets.key` back, or create the secret again."
            ) from error
