import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.objects.names import blob_key, checked, content_key, part_digest_key, part_key


def test_keys() -> None:
    assert blob_key("bl-aZ09") == "blobs/bl-aZ09"
    assert content_key("0" * 64) == "sha256/" + "0" * 64
    assert part_key("bl-1", 10000) == "parts/bl-1/10000"
    assert part_digest_key("bl-1", 1) == "parts/bl-1/1.md5"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "blobs/",
        "blobs/..",
        "blobs/../x",
        "/blobs/x",
        "blobs/a/b",
        "blobs/a\n",
        "blobs/" + "a" * 65,
        "sha256/" + "A" * 64,
        "sha256/" + "0" * 63,
        "parts/bl-1/0",
        "parts/bl-1/-1",
        "parts/bl-1/100000",
        "drafts/x",
    ],
)
def test_anything_else_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match="no key of the object store"):
        checked(key)


@pytest.mark.parametrize("blob_id", ["", "xx-1", "bl-", "bl-../x", "bl-a.b"])
def test_blob_ids_only(blob_id: str) -> None:
    with pytest.raises(InvalidInput, match="no blob id"):
        blob_key(blob_id)
