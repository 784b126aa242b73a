"""Secret keys in files: made once, by whoever comes first, readable by the owner alone, never seen half written."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pilotlight.core.errors import WrongState
from pilotlight.core.signing import KEY_BYTES
from pilotlight.objects.syncing import sync_directory


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
        sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    return _load(path)


@dataclass(frozen=True)
class KeyFile:
    """A file of one or more keys, the newest first: more than one only while what the older ones sealed is being sealed anew.

    One that the operator keeps (`is_operators`) is read, never made or written.
    """

    path: Path
    is_operators: bool = False

    def load(self) -> tuple[bytes, ...]:
        """The keys; raises WrongState if it is no key file, or one that others may read."""
        if not self.is_operators and not self.path.exists():
            return (load_or_create_key(self.path),)
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read()
        except OSError as error:
            how = f"(umask 077; head -c {KEY_BYTES} /dev/urandom > {self.path})"
            raise WrongState(f"The key file {self.path} can't be read: {error.strerror}. Make one: {how}") from error
        if mode & 0o077:
            raise WrongState(f"Others may read the key file {self.path} (mode {mode & 0o777:o}). Close it: chmod 600 {self.path}")
        if not content or len(content) % KEY_BYTES:
            raise WrongState(
                f"{self.path} holds {len(content)} bytes, and a key has {KEY_BYTES} (several follow each other, the newest first); "
                "put it back from a backup."
            )
        return tuple(content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES))

    def replace(self, keys: Sequence[bytes]) -> None:
        """Hold these keys from now on; whoever reads, and a crash, finds either the old or the new ones."""
        assert not self.is_operators, "the operator's key file is theirs to write"
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(b"".join(keys))
                file.flush()
                os.fsync(descriptor)
            draft.rename(self.path)
            sync_directory(self.path.parent)
        finally:
            draft.unlink(missing_ok=True)


def _load(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise WrongState(f"{path} holds {len(key)} bytes instead of a key's {KEY_BYTES}; put it back from a backup, or remove it")
    return key
