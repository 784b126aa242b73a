"""Files of volumes on a real file system, beside programs that plant links, pipes and deep directories at the worst moment."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotlight.core import errors
from pilotlight.core.volumes import BLOCK_BYTES, EMPTY_SHA256, V1, V2, parse_path
from pilotlight.volumes import blocks, changes, copying, limits, removal, walking
from pilotlight.volumes.blocks import BlockFile, IncomingBlock
from pilotlight.volumes.changes import NewFile
from pilotlight.volumes.places import Places

VOLUME = "vo-0123456789abcdefABCDEF"
DEADLINE_S = 60
RENAME_EXCHANGE = 2


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "volumes")
    made.open()
    made.create(VOLUME)
    return made


@pytest.fixture
def tree(places: Places) -> Path:
    return places.tree(VOLUME)


def put(places: Places, path: str, data: bytes, *, overwrite: bool = True) -> None:
    changes.put(places, VOLUME, [NewFile(parse_path(path), 0, lambda target: _write(target, data))], overwrite=overwrite)


def _write(target: int, data: bytes) -> None:
    os.write(target, data)


def read(tree: Path, path: str) -> bytes:
    with walking.file(tree, parse_path(path)) as descriptor:
        return os.read(descriptor, 1 << 20)


def send(places: Places, data: bytes) -> bytes:
    """A block as the edge takes it; its hash."""
    digest = hashlib.sha256(data)
    block = IncomingBlock(places, VOLUME, digest.hexdigest(), BLOCK_BYTES)
    block.finish([data])
    return digest.digest()


def drafts(places: Places) -> list[Path]:
    return list(places.drafts.iterdir())


# ---- links and other traps ----


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    return outside


@pytest.mark.parametrize("act", ["read", "list", "put", "remove", "copy from", "copy to", "mount"])
@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_links_lead_nowhere(places: Places, tree: Path, secret: Path, act: str, kind: str) -> None:
    (tree / "link").symlink_to(secret if kind == "absolute" else "../../outside")
    put(places, "own", b"own")
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: read(tree, "link/secret"),
        "list": lambda: list(walking.entries(tree, ("link", "secret"), recursive=True)),
        "put": lambda: put(places, "link/planted", b"evil"),
        "remove": lambda: removal.remove(places, VOLUME, ("link", "secret"), recursive=True),
        "copy from": lambda: copying.copy(places, VOLUME, [("link", "secret")], ("stolen",), into_directory=False, recursive=True),
        "copy to": lambda: copying.copy(places, VOLUME, [("own",)], ("link", "planted"), into_directory=False, recursive=True),
        "mount": lambda: os.close(walking.open_directory(tree, ("link", "below"), make=True)),
    }
    with pytest.raises((errors.InvalidInput, errors.AlreadyExists), match="link"):
        acts[act]()
    assert [path.name for path in secret.iterdir()] == ["secret"]
    assert not (tree / "stolen").exists()


def test_link_in_the_place_of_a_file_is_replaced_and_not_written_through(places: Places, tree: Path, secret: Path) -> None:
    (tree / "file").symlink_to(secret / "secret")
    with pytest.raises(errors.InvalidInput, match="symbolic link"):
        read(tree, "file")
    put(places, "file", b"new")
    assert (tree / "file").read_bytes() == b"new" and not (tree / "file").is_symlink()
    assert (secret / "secret").read_text() == "secret"


def test_removing_a_link_leaves_its_target(places: Places, tree: Path, secret: Path) -> None:
    (tree / "link").symlink_to(secret)
    (tree / "directory").mkdir()
    (tree / "directory" / "inner").symlink_to(secret)
    removal.remove(places, VOLUME, ("link",), recursive=True)
    removal.remove(places, VOLUME, ("directory",), recursive=True)
    removal.empty_trash(places)
    assert list(tree.iterdir()) == list(places.trash.iterdir()) == []
    assert (secret / "secret").read_text() == "secret"


def test_links_are_listed_and_copied_as_links(places: Places, tree: Path, secret: Path) -> None:
    (tree / "from").mkdir()
    (tree / "from" / "link").symlink_to(secret)
    listed = [entry for batch in walking.entries(tree, (), recursive=True) for entry in batch]
    assert [(entry.parts, entry.format) for entry in listed] == [(("from",), stat.S_IFDIR), (("from", "link"), stat.S_IFLNK)]
    copying.copy(places, VOLUME, [("from",)], ("to",), into_directory=False, recursive=True)
    assert (tree / "to" / "link").readlink() == secret


def test_link_swapped_in_at_any_moment_leads_nowhere(places: Places, tree: Path, secret: Path) -> None:
    """A program exchanges a directory for a link, again and again, while files are read and put below it."""
    (tree / "now").mkdir()
    (tree / "now" / "secret").write_text("harmless")
    (tree / "link").symlink_to(secret)
    ended = threading.Event()
    libc = ctypes.CDLL(None)
    now, link = os.fsencode(tree / "now"), os.fsencode(tree / "link")

    def swap() -> None:
        while not ended.is_set():
            assert libc.renameat2(-100, now, -100, link, RENAME_EXCHANGE) == 0

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(500):
            with contextlib.suppress(errors.PilotlightError):
                assert read(tree, "now/secret") == b"harmless"
            with contextlib.suppress(errors.PilotlightError):
                put(places, "now/planted", b"x")
    finally:
        ended.set()
        swapper.join(DEADLINE_S)
    assert [path.name for path in secret.iterdir()] == ["secret"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory", "device"])
def test_what_is_no_file_is_never_opened(tree: Path, kind: str) -> None:
    path = tree / kind
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "directory":
            path.mkdir()
        case _:
            if os.geteuid():
                pytest.skip("only root can make a device")
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(errors.InvalidInput, match=kind):
        read(tree, kind)


def test_leased_file_is_not_waited_for(tree: Path) -> None:
    (tree / "leased").write_text("x")
    with (tree / "leased").open("r+") as file:
        holder = file.fileno()
        signal.signal(signal.SIGIO, lambda *_: None)
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(errors.Busy, match="lease"):
            read(tree, "leased")
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def test_directories_nested_without_end_are_removed(places: Places, tree: Path) -> None:
    current = os.open(tree, os.O_RDONLY)
    for _ in range(1_000):
        os.mkdir("d", dir_fd=current)
        below = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)
    with pytest.raises(errors.OverLimit, match="deeper"):
        list(walking.entries(tree, (), recursive=True))
    assert walking.count(tree, 10_000) <= 1_000
    removal.remove(places, VOLUME, ("d",), recursive=True)
    removal.empty_trash(places)
    assert list(places.trash.iterdir()) == []


# ---- whole or not at all ----


def test_upload_that_breaks_off_leaves_the_old_file(places: Places, tree: Path) -> None:
    put(places, "file", b"old")

    def fail(target: int) -> None:
        os.write(target, b"half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(errors.OverLimit, match="full"):
        changes.put(places, VOLUME, [NewFile(("file",), 0, fail)], overwrite=True)
    assert read(tree, "file") == b"old"
    assert drafts(places) == []


def test_block_that_breaks_off_leaves_nothing(places: Places) -> None:
    block = IncomingBlock(places, VOLUME, "0" * 64, 100)
    block.append([b"ha", b"lf"])
    block.close()
    assert drafts(places) == []
    with pytest.raises(errors.InvalidInput, match="hash"):
        send_wrong(places)
    assert drafts(places) == [] and not (places.blocks / VOLUME).exists()


def send_wrong(places: Places) -> None:
    block = IncomingBlock(places, VOLUME, "0" * 64, 100)
    try:
        block.finish([b"other bytes"])
    finally:
        block.close()


def test_block_longer_than_announced_is_refused(places: Places) -> None:
    block = IncomingBlock(places, VOLUME, hashlib.sha256(b"four").hexdigest(), 3)
    with pytest.raises(errors.InvalidInput, match="longer"):
        block.finish([b"fo", b"ur"])
    block.close()
    assert drafts(places) == []


def test_uploads_of_one_file_never_mix(places: Places, tree: Path) -> None:
    contents = [bytes([letter]) * 300_000 for letter in b"abcd"]
    ended = threading.Event()

    def write(data: bytes) -> None:
        while not ended.is_set():
            put(places, "file", data)

    put(places, "file", contents[0])
    writers = [threading.Thread(target=write, args=(data,)) for data in contents]
    for writer in writers:
        writer.start()
    try:
        for _ in range(100):
            assert read(tree, "file") in contents
    finally:
        ended.set()
        for writer in writers:
            writer.join(DEADLINE_S)


def test_only_free_names_without_overwriting(places: Places, tree: Path) -> None:
    put(places, "file", b"first", overwrite=False)
    with pytest.raises(errors.AlreadyExists, match="file"):
        put(places, "file", b"second", overwrite=False)
    assert read(tree, "file") == b"first"
    (tree / "directory").mkdir()
    with pytest.raises(errors.AlreadyExists, match="directory"):
        put(places, "directory", b"x")
    with pytest.raises((errors.AlreadyExists, errors.InvalidInput)):
        put(places, "file/below", b"x")
    assert drafts(places) == []


# ---- blocks ----


def block_file(path: str, *datas: bytes, size: int = 0) -> BlockFile:
    digests = tuple(hashlib.sha256(data.rstrip(b"\0")).digest() for data in datas)
    return BlockFile(parse_path(path), 0, size or sum(map(len, datas)), digests)


def place_file(places: Places, file: BlockFile) -> None:
    changes.put(places, VOLUME, [NewFile(file.parts, file.mode, blocks.fill(places, VOLUME, file))], overwrite=True)


def test_blocks_become_a_file(places: Places, tree: Path) -> None:
    first, last = os.urandom(BLOCK_BYTES - 100) + bytes(100), b"end"
    file = block_file("file", first, bytes(BLOCK_BYTES), last)
    assert file.blocks[1] == EMPTY_SHA256
    assert blocks.missing(places, VOLUME, [file, file], set()) == [(0, 0), (0, 2)]
    send(places, first.rstrip(b"\0"))
    assert blocks.missing(places, VOLUME, [file], set()) == [(0, 2)]
    send(places, last)
    assert blocks.missing(places, VOLUME, [file], set()) == []
    place_file(places, file)
    assert (tree / "file").read_bytes() == first + bytes(BLOCK_BYTES) + last
    assert (tree / "file").stat().st_blocks * 512 < 2 * BLOCK_BYTES  # the zeros are a hole


def test_known_block_is_verified_again(places: Places, tree: Path) -> None:
    data = os.urandom(1000)
    put(places, "file", data)
    file = block_file("file", data)
    assert blocks.missing(places, VOLUME, [file], {file.parts}) == []
    place_file(places, file)
    assert (tree / "file").read_bytes() == data
    with (tree / "file").open("r+b") as changed:
        changed.write(b"other")
    assert blocks.missing(places, VOLUME, [file], {file.parts}) == [(0, 0)]
    with pytest.raises(errors.WrongState, match="Start the upload again"):
        place_file(places, file)


def test_blocks_of_another_boot_are_not_believed(places: Places) -> None:
    stale = places.all_blocks / "another-boot" / VOLUME
    stale.mkdir(parents=True)
    (stale / hashlib.sha256(b"x").hexdigest()).write_bytes(b"")
    assert blocks.missing(places, VOLUME, [block_file("file", b"x")], set()) == [(0, 0)]
    assert removal.remove_abandoned(places) == 1
    assert not stale.exists()


def test_abandoned_uploads_are_removed_in_time(places: Places) -> None:
    send(places, b"block")
    places.draft().write_bytes(b"draft")
    now = (places.drafts).stat().st_mtime
    assert removal.remove_abandoned(places, now) == 0
    assert removal.remove_abandoned(places, now + removal.ABANDONED_AFTER_S + 60) == 2


# ---- limits ----


def test_limits_of_the_versions(places: Places, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_V1_FILES", 3)
    monkeypatch.setattr(limits, "MAX_DIRECTORY_ENTRIES", 2)
    put(places, "d/a", b"")
    limits.check_room(tree, V1, [("d", "b")])
    with pytest.raises(errors.OverLimit, match="version 1"):
        limits.check_room(tree, V1, [("d", "b"), ("d", "c")])
    limits.check_room(tree, V1, [("d", "a"), ("d", "b")])  # one of them is there already
    with pytest.raises(errors.OverLimit, match="'d'"):
        limits.check_room(tree, V2, [("d", "b"), ("d", "c")])
    limits.check_room(tree, V2, [("d", "b"), ("e", "c"), ("e", "d")])
