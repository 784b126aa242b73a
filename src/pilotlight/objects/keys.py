"""Secret keys in files: made once, by whoever comes first, readable by the owner alone, never seen half written."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from pilotlight.core.errors import WrongState
from pilotlight.core.signing import KEY_BYTES


def load_or_create_key(path: Path) -> bytes:
    """The 32 bytes of a key file (mode 0600), made at random if there is none; raises WrongState if the file is not one.

    Safe to call from several processes at once: all get the same key.
    """
    with suppress(FileNotFoundError):
        return _load(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        # A link, unlike a rename, fails if the name is taken: of two that come at once the second takes the first one's key.
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        draft.unlink(missing_ok=True)
    return _load(path)


def _load(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise WrongState(f"{path} holds {len(key)} bytes instead of a key's {KEY_BYTES}; put it back from a backup, or remove it")
    return key
