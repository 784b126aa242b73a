"""Blobs: values too large for a message. They travel between client and edge; the server only says where to."""

import time
from collections.abc import Callable

from pilotlight.core import errors, ids
from pilotlight.core.blobs import BlobUrls, PartedUpload, WholeUpload, plan_upload
from pilotlight.objects import Objects, blob_key

MAX_READ_BYTES = 1 << 30  # of a blob that the server itself needs in memory


class Blobs:
    """Use cases of blobs. `base_url` is how clients reach the edge where the caller has no way of its own."""

    def __init__(self, *, objects: Objects, signing_key: bytes, base_url: str, now: Callable[[], float] = time.time) -> None:
        self._objects = objects
        self._key = signing_key
        self._base_url = base_url
        self._now = now

    def create(
        self,
        owner: str,
        idempotency_key: str,
        length_bytes: int,
        md5_base64: str,
        *,
        takes_parts: bool,
        knows_private_hosts: bool,
        edge_base_url: str | None,
    ) -> tuple[str, WholeUpload | PartedUpload]:
        """A blob's id and how to send it; raises InvalidInput, OverLimit. Safe to repeat under one key of one owner."""
        blob_id = ids.derived(ids.BLOB, owner, idempotency_key) if idempotency_key else ids.new(ids.BLOB)
        return blob_id, plan_upload(
            self._urls(edge_base_url),
            blob_id,
            length_bytes,
            md5_base64,
            takes_parts=takes_parts,
            knows_private_hosts=knows_private_hosts,
        )

    async def download_url(self, blob_id: str, edge_base_url: str | None) -> str:
        """Where to fetch a blob; raises NotFound."""
        if not await self._objects.exists(blob_key(blob_id)):
            raise errors.NotFound(f"Blob {blob_id} not found: it was never sent completely, or its result has expired.")
        return self._urls(edge_base_url).download_url(blob_id)

    async def read(self, blob_id: str) -> bytes:
        """A blob's bytes, for the server's own use; raises NotFound, OverLimit."""
        size = await self._objects.size(blob_key(blob_id))
        if size is not None and size > MAX_READ_BYTES:
            raise errors.OverLimit(f"Blob {blob_id} has {size} bytes, more than the {MAX_READ_BYTES} that are read at once.")
        return await self._objects.get(blob_key(blob_id))

    def _urls(self, edge_base_url: str | None) -> BlobUrls:
        return BlobUrls(self._key, edge_base_url or self._base_url, self._now)
