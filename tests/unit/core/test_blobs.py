import hashlib
from base64 import b64encode
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.blobs import (
    MAX_BLOB_BYTES,
    MAX_PARTS,
    MAX_SINGLE_PUT_BYTES,
    UPLOAD_URL_TTL_S,
    BlobUrls,
    PartedUpload,
    WholeUpload,
    md5_hex,
    plan_upload,
    takes_whole_body,
)
from pilotlight.core.errors import InvalidInput, OverLimit
from pilotlight.core.signing import verify

KEY = b"k" * 32
URLS = BlobUrls(KEY, "http://127.0.0.1:9980/", clock=lambda: 100.5)
BY_NAME = BlobUrls(KEY, "https://blobs.example:9980", clock=lambda: 100.5)
MD5 = hashlib.md5(b"x")


def claims(url: str, method: str) -> dict[str, str]:
    parts = urlsplit(url)
    return dict(verify(KEY, method, parts.path, parse_qsl(parts.query), 100))


def test_a_small_blob_travels_whole() -> None:
    plan = plan_upload(URLS, "bl-1", 5, b64encode(MD5.digest()).decode())
    assert isinstance(plan, WholeUpload)
    assert plan.url.startswith("http://127.0.0.1:9980/blobs/bl-1?")
    assert claims(plan.url, "PUT") == {"length": "5", "md5": MD5.hexdigest()}
    assert parse_qs(urlsplit(plan.url).query)["expires"] == [str(100 + UPLOAD_URL_TTL_S)]
    assert claims(URLS.download_url("bl-1"), "GET") == {}


@given(st.integers(0, MAX_BLOB_BYTES), st.booleans())
def test_parts_add_up(length: int, named: bool) -> None:
    plan = plan_upload(BY_NAME if named else URLS, "bl-1", length)
    if not isinstance(plan, PartedUpload):
        assert length <= MAX_SINGLE_PUT_BYTES
        assert not named
        return
    lengths = [int(parse_qs(urlsplit(url).query)["length"][0]) for url in plan.part_urls]
    assert sum(lengths) == length
    assert set(lengths[:-1]) <= {plan.part_bytes}
    assert 0 <= lengths[-1] <= plan.part_bytes
    assert 1 <= len(lengths) <= MAX_PARTS
    assert claims(plan.completion_url, "POST") == {"length": str(length), "parts": str(len(lengths))}
    assert claims(plan.part_urls[-1], "PUT") == {"length": str(lengths[-1])}


def test_clients_without_parts_get_one_url_whatever_the_size_and_host() -> None:
    assert isinstance(plan_upload(BY_NAME, "bl-1", MAX_SINGLE_PUT_BYTES + 1, takes_parts=False), WholeUpload)


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.0.9", True),
        ("169.254.10.1", True),
        ("100.64.0.1", False),
        ("::1", False),
        ("8.8.8.8", False),
        ("blobs.localhost", False),
        ("machine", False),
        ("", False),
    ],
)
def test_hosts_that_take_a_whole_body(host: str, taken: bool) -> None:
    assert takes_whole_body(host) is taken


def test_limits_are_named() -> None:
    with pytest.raises(OverLimit, match=str(MAX_BLOB_BYTES)):
        plan_upload(URLS, "bl-1", MAX_BLOB_BYTES + 1)
    with pytest.raises(InvalidInput):
        plan_upload(URLS, "bl-1", -1)


def test_md5_of_a_request() -> None:
    assert md5_hex("") is None
    assert md5_hex(b64encode(bytes.fromhex("baad" * 8)).decode()) is None
    for wrong in ("%", b64encode(b"short").decode()):
        with pytest.raises(InvalidInput):
            md5_hex(wrong)


@pytest.mark.parametrize(("base_url", "kind"), [("http://127.0.0.1:9980", WholeUpload), ("http://169.254.10.1:9980", PartedUpload)])
def test_old_clients_send_a_whole_body_to_the_loopback_only(base_url: str, kind: type[object]) -> None:
    assert isinstance(plan_upload(BlobUrls(KEY, base_url), "bl-1", 5, knows_private_hosts=False), kind)
    assert isinstance(plan_upload(BlobUrls(KEY, base_url), "bl-1", 5), WholeUpload)
