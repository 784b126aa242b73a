"""The completion of an upload in parts, in S3's XML: which parts the client sent, and what they became."""

import hashlib
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from pilotlight.core.errors import InvalidInput

MAX_REQUEST_BYTES = 1 << 20
_NUMBER = re.compile(r"[0-9]{1,9}")


def parse(body: bytes) -> dict[int, str]:
    """The MD5 (hex) of each part by its number; raises InvalidInput.

    <CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"…"</ETag></Part>…</CompleteMultipartUpload>, with or without
    S3's namespace.
    """
    if b"<!" in body:  # neither document types nor entities: what they can do is not needed here
        raise InvalidInput("the list of parts must be plain XML without <!…> declarations")
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise InvalidInput(f"the list of parts is no XML ({error}); send S3's CompleteMultipartUpload document") from error
    digests: dict[int, str] = {}
    for part in root.iterfind("{*}Part"):
        number, digest = part.findtext("{*}PartNumber", "").strip(), part.findtext("{*}ETag", "").strip().strip('"')
        if not _NUMBER.fullmatch(number) or int(number) in digests:
            raise InvalidInput(f"part number {number!r} is not a number, or comes twice; name each part once")
        digests[int(number)] = digest.lower()
    return digests


def etag(digests: Sequence[str]) -> str:
    """The ETag of a blob of parts, as S3 makes it: the MD5 of their MD5s, a hyphen, their count."""
    joined = b"".join(bytes.fromhex(digest) for digest in digests)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(digests)}"


def reply(etag: str) -> bytes:
    """The document that answers a completion."""
    root = ElementTree.Element("CompleteMultipartUploadResult")
    ElementTree.SubElement(root, "ETag").text = f'"{etag}"'
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
