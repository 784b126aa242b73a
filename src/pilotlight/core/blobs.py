"""How a blob travels: the URLs given out for it, in one piece or in parts. The paths here are the ones that the edge serves.

A blob id stands for one content for ever, so an upload may be repeated, and what was downloaded never goes stale.
"""

import binascii
import ipaddress
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from pilotlight.core.errors import InvalidInput, OverLimit
from pilotlight.core.signing import sign

MAX_BLOB_BYTES = 1 << 40
MAX_SINGLE_PUT_BYTES = 1 << 30  # beyond this the Python client sends no true MD5, and a broken connection costs too much
MIN_PART_BYTES = 128 << 20
MAX_PARTS = 1_000  # their URLs travel in one message
UPLOAD_URL_TTL_S = 24 * 3600  # as long as a large body on a thin line may take
DOWNLOAD_URL_TTL_S = 24 * 3600
# What the client sends in place of the MD5 of a large file, which it does not compute.
_PLACEHOLDER_MD5_HEX = "baadbaadbaadbaadbaadbaadbaadbaad"
_ALWAYS_WHOLE = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class WholeUpload:
    """One PUT of the whole body."""

    url: str


@dataclass(frozen=True)
class PartedUpload:
    """A PUT for each part, all of `part_bytes` but the last, then a POST that names their ETags."""

    part_bytes: int
    part_urls: tuple[str, ...]
    completion_url: str


class BlobUrls:
    """Makes the signed URLs of one way to reach the edge (`http://127.0.0.1:9980` for clients, another for containers)."""

    def __init__(self, signing_key: bytes, base_url: str, clock: Callable[[], float] = time.time) -> None:
        self._key = signing_key
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    @property
    def host(self) -> str:
        """The host's name or address, without its port."""
        return urlsplit(self._base_url).hostname or ""

    def upload_url(self, blob_id: str, length_bytes: int, md5_hex: str | None = None) -> str:
        """For one PUT of exactly this many bytes, with this MD5 where it is known."""
        return self._signed(
            "PUT", blob_path(blob_id), UPLOAD_URL_TTL_S, length=length_bytes, **({"md5": md5_hex} if md5_hex else {})
        )

    def part_url(self, blob_id: str, number: int, length_bytes: int) -> str:
        """For the PUT of one part; numbers count from 1."""
        return self._signed("PUT", part_path(blob_id, number), UPLOAD_URL_TTL_S, length=length_bytes)

    def completion_url(self, blob_id: str, parts: int, length_bytes: int) -> str:
        """For the POST that makes the parts one blob."""
        return self._signed("POST", completion_path(blob_id), UPLOAD_URL_TTL_S, length=length_bytes, parts=parts)

    def download_url(self, blob_id: str) -> str:
        """For any number of GET and HEAD requests, ranges included."""
        return self._signed("GET", blob_path(blob_id), DOWNLOAD_URL_TTL_S)

    def _signed(self, method: str, path: str, ttl_s: int, **claims: str | int) -> str:
        return f"{self._base_url}{path}?{sign(self._key, method, path, int(self._clock()) + ttl_s, **claims)}"


def blob_path(blob_id: str) -> str:
    """Path of a whole blob at the edge."""
    return f"/blobs/{blob_id}"


def part_path(blob_id: str, number: int) -> str:
    """Path of one part of a blob that is still being sent."""
    return f"/blobs/{blob_id}/parts/{number}"


def completion_path(blob_id: str) -> str:
    """Path that makes parts a blob."""
    return f"/blobs/{blob_id}/complete"


def plan_upload(
    urls: BlobUrls,
    blob_id: str,
    length_bytes: int,
    md5_base64: str = "",
    *,
    takes_parts: bool = True,
    knows_private_hosts: bool = True,
) -> WholeUpload | PartedUpload:
    """How a client shall send a blob; raises InvalidInput and OverLimit.

    `takes_parts` is false for clients without multipart uploads (JavaScript, Go). Others get parts for large bodies, and also where
    the host is a name: the Python client sends a whole body only to hosts whose checksum habits it knows. Before 1.5 these were no
    private addresses but the loopback (`knows_private_hosts`).
    """
    if length_bytes < 0:
        raise InvalidInput(f"a blob can't have {length_bytes} bytes")
    if length_bytes > MAX_BLOB_BYTES:
        raise OverLimit(
            f"a blob of {length_bytes} bytes is too large: the limit is {MAX_BLOB_BYTES} bytes; split it, or use a volume"
        )
    must_split = length_bytes > MAX_SINGLE_PUT_BYTES or not takes_whole_body(urls.host, knows_private_hosts=knows_private_hosts)
    if not (takes_parts and must_split):
        return WholeUpload(urls.upload_url(blob_id, length_bytes, md5_hex(md5_base64)))
    part_bytes = max(MIN_PART_BYTES, -(-length_bytes // MAX_PARTS))
    parts = max(1, -(-length_bytes // part_bytes))
    lengths = [part_bytes] * (parts - 1) + [length_bytes - part_bytes * (parts - 1)]
    part_urls = tuple(urls.part_url(blob_id, number, length) for number, length in enumerate(lengths, start=1))
    return PartedUpload(part_bytes, part_urls, urls.completion_url(blob_id, parts, length_bytes))


def takes_whole_body(host: str, *, knows_private_hosts: bool = True) -> bool:
    """Whether the Python client agrees to one PUT to this host: localhost, or a private, loopback or link-local IPv4 address."""
    if host in _ALWAYS_WHOLE:
        return True
    if not knows_private_hosts:
        return False
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return address.is_private or address.is_loopback


def md5_hex(md5_base64: str) -> str | None:
    """The MD5 of a BlobCreate request as 32 hex digits, None where the client did not compute it; raises InvalidInput."""
    if not md5_base64:
        return None
    try:
        digest = b64decode(md5_base64, validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"the blob's MD5 {md5_base64!r} is not base64; send the base64 of its 16 bytes, or none") from error
    if len(digest) != 16:
        raise InvalidInput(f"the blob's MD5 has {len(digest)} bytes instead of 16; send the base64 of its 16 bytes, or none")
    return None if digest.hex() == _PLACEHOLDER_MD5_HEX else digest.hex()
