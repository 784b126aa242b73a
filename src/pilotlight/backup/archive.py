"""The archive of a backup: a plain tar file of parts, each a database or a tar of a directory, then what is known of them.

    pilotlight.db  output.db  [keys.tar]  images.tar  layers.tar  objects.tar  [volumes.tar]  manifest.json  manifest.sha256

Invariant: a part counts only if its bytes have the digest that the manifest names, and the manifest only if it has its own.
"""

import hashlib
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from pilotlight.core.errors import WrongState

FORMAT = 1
MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
BLOCK_BYTES = 1 << 20

Sink = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A member of the archive."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds. `counts`: rows of some tables; `notes`: what people should know of it."""

    version: str
    schema: str
    created_at: float
    state: str
    counts: Mapping[str, int]
    parts: Sequence[Part] = ()
    notes: Sequence[str] = field(default_factory=tuple[str, ...])
    format: int = FORMAT

    def has(self, name: str) -> bool:
        """Whether there is a part of this name."""
        return any(part.name == name for part in self.parts)


class Writer:
    """Writes an archive to a file that can be sought in: sizes are known only behind what they are of."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._made_at = int(time.time())
        self.parts: list[Part] = []

    def add(self, name: str, blocks: Iterator[bytes]) -> Part:
        """Append a member of these bytes."""
        start = self._file.tell()
        self._file.write(self._header(name, 0))
        digest, size = hashlib.sha256(), 0
        for block in blocks:
            digest.update(block)
            self._file.write(block)
            size += len(block)
        self._file.write(b"\0" * (-size % tarfile.BLOCKSIZE))
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(self._header(name, size))
        self._file.seek(end)
        part = Part(name, size, digest.hexdigest())
        self.parts.append(part)
        return part

    def finish(self, manifest: Manifest) -> None:
        """Append what is known of the parts, and the end of the archive."""
        text = json.dumps(asdict(manifest), indent=1).encode()
        self.add(MANIFEST, iter((text,)))
        self.add(MANIFEST_DIGEST, iter((hashlib.sha256(text).hexdigest().encode(),)))
        self._file.write(b"\0" * (2 * tarfile.BLOCKSIZE))

    def _header(self, name: str, size: int) -> bytes:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = size, self._made_at, 0o600
        return member.tobuf(tarfile.GNU_FORMAT)


class Reader:
    """An archive that was opened; raises WrongState if it is none, or not whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed by close
            try:
                text, digest = self._whole(MANIFEST), self._whole(MANIFEST_DIGEST)
                if hashlib.sha256(text).hexdigest().encode() != digest:
                    raise self._damaged(f"{MANIFEST} is not as it was written")
                self.manifest = _parsed(text)
            except BaseException:
                self._tar.close()
                raise
        except (tarfile.TarError, EOFError, KeyError, ValueError, TypeError) as error:
            raise self._damaged(f"it ends early, or is no backup ({error})") from error
        if self.manifest.format > FORMAT:
            self._tar.close()
            raise WrongState(
                f"{path} is a backup of format {self.manifest.format}, by Pilotlight {self.manifest.version}; this version knows "
                f"formats up to {FORMAT}. Restore it with that version or a newer one."
            )

    def close(self) -> None:
        """Close the file."""
        self._tar.close()

    def extract(self, part: Part, sink: Sink) -> None:
        """Give a part's bytes to `sink`, block by block; raises WrongState behind them if they are not what they were."""
        try:
            member = self._tar.extractfile(part.name)
        except (KeyError, tarfile.TarError) as error:
            raise self._damaged(f"{part.name} is missing") from error
        assert member is not None
        digest, size = hashlib.sha256(), 0
        try:
            while block := member.read(BLOCK_BYTES):
                digest.update(block)
                size += len(block)
                sink(block)
        except tarfile.TarError as error:
            raise self._damaged(f"{part.name} ends early") from error
        if (size, digest.hexdigest()) != (part.size_bytes, part.sha256):
            raise self._damaged(f"{part.name} is not as it was written")

    def _whole(self, name: str) -> bytes:
        member = self._tar.extractfile(name)
        assert member is not None
        return member.read()

    def _damaged(self, why: str) -> WrongState:
        return WrongState(f"{self._path} is damaged: {why}. Nothing was restored; take another backup.")


def _parsed(text: bytes) -> Manifest:
    document = json.loads(text)
    parts = tuple(Part(**part) for part in document.pop("parts"))
    known = {name: document[name] for name in ("version", "schema", "created_at", "state", "counts", "notes", "format")}
    return Manifest(parts=parts, **known)
