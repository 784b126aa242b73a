"""Names, blocks, mount paths and URLs of volumes."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from pilotlight.core import errors, volumes
from pilotlight.core.signing import verify
from pilotlight.core.volumes import BLOCK_BYTES, VolumeMount, VolumeUrls, check_mounts

KEY = b"k" * 32
ID = "vo-0123456789abcdefABCDEF"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("", ()),
        ("/", ()),
        ("./", ()),
        ("a/b", ("a", "b")),
        ("//a/./b//", ("a", "b")),
        ("..a/b..", ("..a", "b..")),
        ("new\nline/ ", ("new\nline", " ")),
        ("é" * 127, ("é" * 127,)),
    ],
)
def test_paths(path: str, parts: tuple[str, ...]) -> None:
    assert volumes.parse_path(path) == parts


@pytest.mark.parametrize(
    "path", ["..", "/..", "a/../b", "a/..", "nul\0", "x" * 256, "é" * 128, "/".join(["d" * 250] * 17), "a/" * 513]
)
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(errors.InvalidInput):
        volumes.parse_path(path)


@pytest.mark.parametrize("path", ["", "/", "a/", "a/../b"])
def test_paths_that_are_no_files(path: str) -> None:
    with pytest.raises(errors.InvalidInput):
        volumes.parse_file_path(path)


def test_blocks() -> None:
    assert volumes.block_lengths(0) == []
    assert volumes.block_lengths(BLOCK_BYTES) == [BLOCK_BYTES]
    assert volumes.block_lengths(2 * BLOCK_BYTES + 5) == [BLOCK_BYTES, BLOCK_BYTES, 5]
    assert volumes.block_ranges(0, 0) == []
    assert volumes.block_ranges(3, 9) == [(3, 9)]
    first, second = BLOCK_BYTES, 2 * BLOCK_BYTES
    assert volumes.block_ranges(5, second + 1) == [(5, first), (first, second), (second, second + 1)]
    assert volumes.block_ranges(first, second) == [(first, second)]


def test_files_and_their_blocks() -> None:
    volumes.check_file("f", BLOCK_BYTES + 1, [b"x" * 32] * 2)
    for size, blocks in ((1, []), (0, [b"x" * 32]), (1, [b"short"])):
        with pytest.raises(errors.InvalidInput):
            volumes.check_file("f", size, blocks)
    with pytest.raises(errors.OverLimit, match="Split it"):
        volumes.check_file("f", volumes.MAX_FILE_BYTES + 1, [])


def mount(path: str, volume_id: str = ID) -> VolumeMount:
    return VolumeMount(volume_id, path)


@pytest.mark.parametrize(
    "path", ["/", "/root", "/tmp", "/proc/x", "/dev", "/__modal/volumes", "/pkg", "relative", "/a/", "/a/../b", "//a", "/a\0"]
)
def test_places_where_no_volume_can_be(path: str) -> None:
    with pytest.raises(errors.InvalidInput, match="Function 'f'"):
        check_mounts([mount(path)], "Function 'f'")


def test_mounts_of_one_container() -> None:
    check_mounts([mount("/data"), mount("/data2", "vo-2"), mount("/root/x", "vo-3"), mount("/process", "vo-4")], "Function 'f'")
    with pytest.raises(errors.InvalidInput, match="one another"):
        check_mounts([mount("/data"), mount("/data/inner", "vo-2")], "Function 'f'")
    with pytest.raises(errors.InvalidInput, match="one another"):
        check_mounts([mount("/data/inner"), mount("/data", "vo-2")], "Function 'f'")
    with pytest.raises(errors.InvalidInput, match="twice"):
        check_mounts([mount("/data"), mount("/other")], "Function 'f'")


def claims(method: str, url: str, now: float) -> dict[str, str]:
    parsed = urlsplit(url)
    return dict(verify(KEY, method, parsed.path, parse_qsl(parsed.query), now))


@pytest.mark.parametrize("path", ["plain", "a/b", "new\nline", "100%+&?#", "\u202e", "é" * 127])
def test_urls_carry_any_path(path: str) -> None:
    urls = VolumeUrls(KEY, "http://edge:1/", lambda: 1000.0)
    url = urls.get_url(ID, volumes.parse_path(path), 7, 0, 10)
    assert url.isascii() and url.startswith(f"http://edge:1/volumes/{ID}/files?")
    found = claims("GET", url, 1000.0)
    assert (volumes.decoded(found["file"]), found["inode"], found["start"], found["end"]) == (path, "7", "0", "10")


def test_urls_permit_one_thing_until_they_expire() -> None:
    url = VolumeUrls(KEY, "http://edge:1", lambda: 1000.0).put_url(ID, "ab" * 32, 5)
    assert claims("PUT", url, 1000.0) == {"most": "5"}
    for method, asked, now in (("GET", url, 1000.0), ("PUT", url.replace("most=5", "most=6"), 1000.0), ("PUT", url, 1e9)):
        with pytest.raises(errors.NotAllowed):
            claims(method, asked, now)
