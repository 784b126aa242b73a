"""Bytes under a key, in a local directory or a bucket: blobs, files of mounts, layers for other machines."""

from pilotlight.objects.keys import KeyFile, load_or_create_key
from pilotlight.objects.names import blob_key, content_key, part_digest_key, part_key
from pilotlight.objects.store import Objects

__all__ = ["KeyFile", "Objects", "blob_key", "content_key", "load_or_create_key", "part_digest_key", "part_key"]
