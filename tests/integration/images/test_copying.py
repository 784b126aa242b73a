"""COPY puts files where a process in the image would find them."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.images.copying import Copy, Owner, copy, files_hash, find_sources, parse_mode, parse_owner
from pilotlight.images.trees import Tree

KEEP = Owner(-1, -1)


@pytest.fixture
def context(tmp_path: Path, layer: Callable[..., Path]) -> Tree:
    return Tree([layer(tmp_path / "context", {"a.txt": "a", "b.txt": "b", "dir/c": "c", "dir/deep/d": "d", "dir/link": "-> c"})])


@pytest.fixture
def image(tmp_path: Path, layer: Callable[..., Path]) -> Path:
    root = layer(tmp_path / "image", {"usr/lib/old": "old", "lib": "-> usr/lib", "file": "f", "etc/passwd": "me:x:7:8:::\n"})
    (root / "private").mkdir(mode=0o700)
    (root / "etc/group").write_text("us:x:9:\n")
    return root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "layer").mkdir()
    return tmp_path / "layer"


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_file_to_a_name_and_into_a_directory(context: Tree, image: Path, target: Path) -> None:
    copy(Copy(("/a.txt",), "/new/name", context, KEEP), [image], target)
    copy(Copy(("a.txt",), "/new/", context, KEEP), [image], target)
    copy(Copy(("a.txt",), "/private", context, KEEP), [image], target)
    assert files(target) == {"new/name": "a", "new/a.txt": "a", "private/a.txt": "a"}
    assert (target / "private").stat().st_mode & 0o777 == 0o700


def test_a_directory_gives_what_it_holds(context: Tree, image: Path, target: Path) -> None:
    copy(Copy((".",), "/", context, KEEP), [image], target)
    assert files(target) == {"a.txt": "a", "b.txt": "b", "dir/c": "c", "dir/deep/d": "d", "dir/link": "c"}
    assert (target / "dir/link").is_symlink()


def test_links_of_the_image_are_followed_inside_it(context: Tree, image: Path, target: Path) -> None:
    copy(Copy(("dir/",), "/lib", context, KEEP), [image], target)
    assert (target / "usr/lib/c").read_text() == "c"
    assert not (target / "lib").exists()
    assert Tree([image, target]).read_text("/lib/old") == "old"


def test_patterns(context: Tree, image: Path, target: Path) -> None:
    copy(Copy(("*.txt",), "/x", context, KEEP), [image], target)
    assert files(target) == {"x/a.txt": "a", "x/b.txt": "b"}


def test_what_can_not_be(context: Tree, image: Path, target: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        copy(Copy(("missing",), "/x", context, KEEP), [image], target)
    with pytest.raises(InvalidInput, match="must lie inside"):
        copy(Copy(("../x",), "/x", context, KEEP), [image], target)
    with pytest.raises(InvalidInput, match="the image has a file there"):
        copy(Copy(("a.txt",), "/file/x", context, KEEP), [image], target)


def test_owner_and_mode(context: Tree, image: Path, target: Path) -> None:
    tree = Tree([image])
    assert parse_owner("me", tree, KEEP) == Owner(7, 8)
    assert parse_owner("me:us", tree, KEEP) == Owner(7, 9)
    assert parse_owner("5:6", tree, KEEP) == Owner(5, 6)
    assert parse_owner("", tree, KEEP) == KEEP
    with pytest.raises(InvalidInput, match="no 'you'"):
        parse_owner("you", tree, KEEP)
    with pytest.raises(InvalidInput, match="octal"):
        parse_mode("u+x")
    copy(Copy(("a.txt",), "/x", context, KEEP, parse_mode("750")), [image], target)
    assert (target / "x").stat().st_mode & 0o777 == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")
def test_files_of_the_context_are_roots(context: Tree, image: Path, target: Path, tmp_path: Path) -> None:
    os.chown(tmp_path / "context/a.txt", 5, 5)
    copy(Copy(("a.txt",), "/x", context, Owner(0, 0)), [image], target)
    assert (target / "x").stat().st_uid == 0
    assert (tmp_path / "context/a.txt").stat().st_uid == 5


def test_the_hash_covers_what_is_copied_and_nothing_else(context: Tree) -> None:
    known = {"/a.txt": "1", "/b.txt": "2", "/dir/c": "3", "/dir/deep/d": "4", "/dir/link": "5"}
    of = lambda pattern, **changed: files_hash(find_sources(context, [pattern]), known | changed)  # noqa: E731
    assert of("dir") == of("dir", **{"/a.txt": "x"})
    assert of("dir") != of("dir", **{"/dir/deep/d": "x"})
    assert of(".") != of(".", **{"/a.txt": "x"})


def archive(path: Path, *members: tuple[str, str, str]) -> None:
    """A tar of (kind, name, content or where it leads)."""
    kinds = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    with tarfile.open(path, "w") as made:
        for kind, name, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.uid, member.mode = kinds[kind], 1234, 0o4755
            if kind == "file":
                member.size = len(content)
            elif kind != "device":
                member.linkname = content
            made.addfile(member, io.BytesIO(content.encode()))


def test_archives_are_unpacked_with_owners_modes_and_links(tmp_path: Path, image: Path, target: Path) -> None:
    (tmp_path / "from").mkdir()
    archive(tmp_path / "from/one.tar", ("file", "deep/a", "a"), ("hard", "deep/b", "deep/a"), ("link", "c", "deep/a"))
    copy(Copy(("one.tar",), "/x/", Tree([tmp_path / "from"]), KEEP, unpack_archives=True), [image], target)
    assert files(target) == {"x/deep/a": "a", "x/deep/b": "a", "x/c": "a"}
    found = (target / "x/deep/a").stat()
    assert (found.st_uid, found.st_mode & 0o7777, found.st_nlink) == (1234, 0o4755, 2)
    assert list(target.parent.glob("archive-*")) == []


def test_an_archive_does_not_write_through_links_of_another_source(tmp_path: Path, image: Path, target: Path) -> None:
    """The first puts a link to a directory of the machine into the layer, the second a file below it."""
    (tmp_path / "from").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    archive(tmp_path / "from/1.tar", ("link", "a", str(outside)))
    archive(tmp_path / "from/2.tar", ("file", "a/x", "written"))
    copy(Copy(("1.tar", "2.tar"), "/dst/", Tree([tmp_path / "from"]), KEEP, unpack_archives=True), [image], target)
    assert list(outside.iterdir()) == []
    assert (target / str(outside).lstrip("/") / "x").read_text() == "written", "it lies where a process in the image would find it"


def test_an_archive_that_is_too_deep_is_refused_and_leaves_nothing(tmp_path: Path, image: Path, target: Path) -> None:
    (tmp_path / "from").mkdir()
    archive(tmp_path / "from/1.tar", ("file", "d/" * 1500 + "a", "a"))
    with pytest.raises(InvalidInput, match="more than 512 directories in one another"):
        copy(Copy(("1.tar",), "/dst/", Tree([tmp_path / "from"]), KEEP, unpack_archives=True), [image], target)
    assert list(target.parent.glob("archive-*")) == []


def test_archives_bring_no_devices(tmp_path: Path, image: Path, target: Path) -> None:
    (tmp_path / "from").mkdir()
    archive(tmp_path / "from/1.tar", ("device", "null", ""), ("file", "a", "a"))
    copy(Copy(("1.tar",), "/dst/", Tree([tmp_path / "from"]), KEEP, unpack_archives=True), [image], target)
    assert files(target) == {"dst/a": "a"} and not (target / "dst/null").exists()


@pytest.mark.parametrize("user", ["²", "١٢", "12345678901234567890", "odd"])
def test_an_owner_that_is_no_number_is_refused(user: str, image: Path) -> None:
    (image / "etc").mkdir(exist_ok=True)
    (image / "etc/passwd").write_text("odd:x:many:1\n")
    with pytest.raises(InvalidInput, match="--chown"):
        parse_owner(user, Tree([image]), KEEP)
