"""What holds of volumes before any file is touched: names, sizes, blocks, mount paths, URLs.

A path that has been parsed here names something below the volume's root, whatever the characters; that no link leads away from
there is for `pilotlight.volumes` to see to, at the moment of each access.
"""

import hashlib
import itertools
import posixpath
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pilotlight.core import errors
from pilotlight.core.signing import sign

V1, V2 = 1, 2
BLOCK_BYTES = 8 << 20  # of a file, by its offset; the last one is shorter
MAX_V1_FILES = 500_000  # entries of a version 1 volume, directories included
MAX_DIRECTORY_ENTRIES = 262_144  # in one directory of a version 2 volume
MAX_FILE_BYTES = 1 << 40
MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MAX_DEPTH = 512  # directories in one another: each access walks from the root
MAX_FILES_AT_ONCE = 100_000  # in one upload request
ECHO_BYTES = 4 << 10  # a block so small comes back in the answer to its PUT, and then with the request that names its file
MAX_ECHOED_BYTES = 32 << 20  # of one request
URL_TTL_S = 24 * 3600
EMPTY_SHA256 = hashlib.sha256(b"").digest()

GUEST_DIR = "/__modal/volumes"  # where the official client looks for open files
_FORBIDDEN_POINTS = ("/", "/root", "/tmp")
_RESERVED = ("/proc", "/sys", "/dev", "/__modal", "/__pilotlight", "/pkg")

Parts = tuple[str, ...]
"""A path below a volume's root by its components; empty: the root itself."""


def parse_path(path: str) -> Parts:
    """The components of a path as clients write it (with or without a slash in front); raises InvalidInput."""
    if "\0" in path:
        raise errors.InvalidInput(f"The path {path!r} holds a NUL character, which no file name may.")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise errors.InvalidInput(f"The path {path[:40]!r}… has more than {MAX_PATH_BYTES} bytes. Use shorter names.")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise errors.InvalidInput(f"The path {path!r} has '..' in it. Name the file from the volume's root.")
    if len(parts) > MAX_DEPTH:
        raise errors.InvalidInput(f"The path {path[:40]!r}… has more than {MAX_DEPTH} directories in one another. Use fewer.")
    for part in parts:
        if len(part.encode()) > MAX_NAME_BYTES:
            raise errors.InvalidInput(f"The name {part[:40]!r}… has more than {MAX_NAME_BYTES} bytes. Use a shorter one.")
    return parts


def parse_file_path(path: str) -> Parts:
    """As `parse_path`, for what must be a file; raises InvalidInput."""
    parts = parse_path(path)
    if not parts or path.endswith("/"):
        raise errors.InvalidInput(f"{path!r} can't be the path of a file. Name the file itself.")
    return parts


def shown(parts: Sequence[str]) -> str:
    """A path for people."""
    return "/".join(parts) or "/"


def block_lengths(size_bytes: int) -> list[int]:
    """How many bytes of a file each of its blocks covers."""
    full, rest = divmod(size_bytes, BLOCK_BYTES)
    return [BLOCK_BYTES] * full + ([rest] if rest else [])


def block_ranges(start: int, end: int) -> list[tuple[int, int]]:
    """The range start..end of a file, cut where its blocks begin."""
    cuts = [start, *range((start // BLOCK_BYTES + 1) * BLOCK_BYTES, end, BLOCK_BYTES), end]
    return list(itertools.pairwise(cuts)) if start < end else []


def check_file(path: str, size_bytes: int, blocks: Sequence[bytes]) -> None:
    """Whether the blocks (SHA-256 each) can make up the file; raises InvalidInput, OverLimit."""
    if size_bytes > MAX_FILE_BYTES:
        raise errors.OverLimit(f"The file {path!r} has {size_bytes} bytes, over the limit of {MAX_FILE_BYTES}. Split it.")
    expected = len(block_lengths(size_bytes))
    if len(blocks) != expected:
        raise errors.InvalidInput(f"The file {path!r} of {size_bytes} bytes has {expected} blocks, but {len(blocks)} were named.")
    if any(len(digest) != 32 for digest in blocks):
        raise errors.InvalidInput(f"A block of {path!r} has no SHA-256: that has 32 bytes.")


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume as a container is to see it."""

    volume_id: str
    mount_path: str
    read_only: bool = False
    sub_path: Parts = ()


def check_mounts(mounts: Iterable[VolumeMount], owner: str) -> None:
    """Whether one container can have all of these; raises InvalidInput. `owner` begins the message: "Function 'f'"."""
    seen: dict[str, str] = {}
    volumes: set[str] = set()
    for mount in mounts:
        path = mount.mount_path
        if not path.startswith("/") or posixpath.normpath(path) != path or "\0" in path or path.startswith("//"):
            raise errors.InvalidInput(f"{owner}: the mount path {path!r} of a volume must be absolute and without '..'.")
        if path in _FORBIDDEN_POINTS or any(is_below(path, reserved) for reserved in _RESERVED):
            raise errors.InvalidInput(f"{owner}: a volume can't be mounted at {path!r}. Choose another directory.")
        for other in seen:
            if is_below(path, other) or is_below(other, path):
                raise errors.InvalidInput(f"{owner}: the mount paths {other!r} and {path!r} lie in one another. Separate them.")
        if mount.volume_id in volumes:
            raise errors.InvalidInput(f"{owner}: volume {mount.volume_id} is mounted twice. Mount it once.")
        seen[path] = mount.volume_id
        volumes.add(mount.volume_id)


def is_below(path: str, directory: str) -> bool:
    """Whether a normal absolute path is the directory or in it."""
    return path == directory or path.startswith(directory + "/")


def encoded(path: str) -> str:
    """A path as a claim of a URL: whatever its characters, no program on the way has another opinion on how to write them."""
    return urlsafe_b64encode(path.encode()).decode()


def decoded(claim: str) -> str:
    """The path of a claim."""
    return urlsafe_b64decode(claim).decode()


class VolumeUrls:
    """Makes the signed URLs by which blocks travel, for one way to reach the edge."""

    def __init__(self, signing_key: bytes, base_url: str, clock: Callable[[], float] = time.time) -> None:
        self._key = signing_key
        self._base_url = base_url.rstrip("/")
        self._expires_at = int(clock()) + URL_TTL_S

    def put_url(self, volume_id: str, sha256_hex: str, most_bytes: int, *, echo: bool = False) -> str:
        """For the PUT of one block: at most so many bytes, which have this hash. With `echo` its answer is the block."""
        path = f"/volumes/{volume_id}/blocks/{sha256_hex}"
        return self._signed("PUT", path, most=most_bytes, **({"echo": 1} if echo else {}))

    def get_url(self, volume_id: str, parts: Parts, inode: int, start: int, end: int) -> str:
        """For the bytes start..end of a file, as long as the path means this inode."""
        return self._signed("GET", f"/volumes/{volume_id}/files", file=encoded("/".join(parts)), inode=inode, start=start, end=end)

    def _signed(self, method: str, path: str, **claims: str | int) -> str:
        return f"{self._base_url}{path}?{sign(self._key, method, path, self._expires_at, **claims)}"
