"""The names of objects, and that no other is ever used: a key from outside can't leave its place in the store.

blobs/<blob id>                 a whole blob
sha256/<64 hex digits>          a file of a mount, by content
parts/<blob id>/<number>        a part of a blob that is still being sent
parts/<blob id>/<number>.md5    that part's MD5, 32 hex digits
"""

import re

from pilotlight.core import ids
from pilotlight.core.errors import InvalidInput

PARTS, BLOBS, CONTENTS = "parts", "blobs", "sha256"
_ID = r"[A-Za-z0-9][A-Za-z0-9-]{0,63}"
_KEY = re.compile(rf"blobs/{_ID}|sha256/[0-9a-f]{{64}}|{PARTS}/{_ID}/[1-9][0-9]{{0,4}}(\.md5)?")


def checked(key: str) -> str:
    """The key, if it is one of the kinds above; raises InvalidInput."""
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            f"{key!r} is no key of the object store: keys are blobs/<blob id>, sha256/<hex> and parts/<blob id>/<number>"
        )
    return key


def checked_kind(kind: str) -> str:
    """The first part of keys, if it is one of those above; raises InvalidInput."""
    if kind not in (PARTS, BLOBS, CONTENTS):
        raise InvalidInput(f"{kind!r} is no kind of object: those are {BLOBS}, {CONTENTS} and {PARTS}")
    return kind


def blob_key(blob_id: str) -> str:
    """Key of a whole blob; raises InvalidInput for what is no blob id."""
    if not ids.has_prefix(blob_id, ids.BLOB):
        raise InvalidInput(f"{blob_id!r} is no blob id: those start with {ids.BLOB}-")
    return checked(f"blobs/{blob_id}")


def content_key(sha256_hex: str) -> str:
    """Key of a file by its content."""
    return checked(f"sha256/{sha256_hex}")


def part_key(blob_id: str, number: int) -> str:
    """Key of a part of a blob, counted from 1."""
    return checked(f"{PARTS}/{blob_id}/{number}")


def part_digest_key(blob_id: str, number: int) -> str:
    """Key of the MD5 of a part."""
    return checked(f"{PARTS}/{blob_id}/{number}.md5")
