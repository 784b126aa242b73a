import pytest

from pilotlight.control.mounts import MountFile, checked_file, content_hash_of
from pilotlight.core.errors import InvalidInput

HASH = "ab" * 32


def test_the_order_of_files_does_not_matter() -> None:
    a, b = MountFile("/a", HASH, 0o644), MountFile("/b", HASH, 0o644)
    assert content_hash_of([a, b]) == content_hash_of([b, a])
    assert content_hash_of([a]) != content_hash_of([a, b])
    assert content_hash_of([a]) != content_hash_of([MountFile("/a", HASH, 0o755)])


def test_paths_are_absolute_and_tidy() -> None:
    assert checked_file("root//x/./y.py", HASH, 0).path == "/root/x/y.py"
    assert checked_file("//root/x", HASH, 0).path == "/root/x"
    assert checked_file("/x", HASH, 0).mode == 0o644
    assert checked_file("/x", HASH, 0o100755).mode == 0o755


@pytest.mark.parametrize("path", ["", "/", "../x", "/a/../../x", "/a/..", "/a\0b", "/a/"])
def test_paths_do_not_leave_the_root(path: str) -> None:
    with pytest.raises(InvalidInput):
        checked_file(path, HASH, 0)


@pytest.mark.parametrize("sha256", ["", "AB" * 32, "ab" * 31, "../" + "ab" * 31])
def test_hashes_are_hashes(sha256: str) -> None:
    with pytest.raises(InvalidInput):
        checked_file("/x", sha256, 0)
