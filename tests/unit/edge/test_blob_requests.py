import hashlib
from xml.etree import ElementTree

import pytest

from pilotlight.core.errors import DiskFull, InvalidInput, PilotlightError
from pilotlight.edge import completion
from pilotlight.edge.blobs import requested_range
from pilotlight.edge.errors import STATUS

ONE, TWO = (hashlib.md5(data).hexdigest() for data in (b"1", b"2"))


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=9-99", (9, 10)),
        ("bytes=10-", (0, 0)),
        ("bytes=-0", (0, 0)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("", None),
    ],
)
def test_ranges(header: str, wanted: tuple[int, int] | None) -> None:
    assert requested_range(header, 10) == wanted


def test_completion_as_s3_words_it() -> None:
    for namespace in ("", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'):
        body = (
            f"<CompleteMultipartUpload{namespace}>\n"
            f'<Part><PartNumber>2</PartNumber>\n<ETag>"{TWO.upper()}"</ETag></Part>'
            f"<Part><PartNumber>1</PartNumber><ETag>{ONE}</ETag></Part></CompleteMultipartUpload>"
        )
        assert completion.parse(body.encode()) == {1: ONE, 2: TWO}
    etag = completion.etag([ONE, TWO])
    assert etag == hashlib.md5(bytes.fromhex(ONE + TWO)).hexdigest() + "-2"
    assert ElementTree.fromstring(completion.reply(etag)).findtext("ETag") == f'"{etag}"'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE x><x/>",
        b"<x><Part><PartNumber>x</PartNumber></Part></x>",
        b"<x><Part/></x>",
        b"<x>" + b"<Part><PartNumber>1</PartNumber></Part>" * 2 + b"</x>",
    ],
)
def test_completion_that_is_none(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        completion.parse(body)


def test_every_error_has_a_status() -> None:
    tree = {kind for kind in PilotlightError.__subclasses__() if kind.__module__ == PilotlightError.__module__}
    assert set(STATUS) == tree | {DiskFull}  # of those further down only what differs from its kind
