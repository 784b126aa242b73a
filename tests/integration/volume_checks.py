"""Checks of volumes by the stock client, newest or oldest: run as a program with the version of the volumes to be made, 1 or 2."""

import contextlib
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
from modal.exception import NotFoundError

VERSION = int(sys.argv[1])
MIB = 1 << 20
NEWEST = not modal.__version__.startswith("1.1.")
AlreadyExistsError: type[Exception] = getattr(modal.exception, "AlreadyExistsError", Exception)


@contextlib.contextmanager
def raises(*kinds: type[BaseException], match: str = "") -> Iterator[None]:
    try:
        yield
    except kinds as error:
        assert match in str(error), error
    else:
        raise AssertionError(f"none of {kinds} was raised")


def volume(name: str) -> Any:
    return modal.Volume.from_name(name, create_if_missing=True, version=VERSION)


def names(found: Any) -> list[str]:
    return sorted(entry.path for entry in found)


def read(vol: Any, path: str) -> bytes:
    return b"".join(vol.read_file(path))


def check_files(local: Path) -> None:
    vol = volume("files")
    (local / "tree" / "deep" / "er").mkdir(parents=True)
    (local / "tree" / "a.txt").write_text("a")
    (local / "tree" / "deep" / "er" / "b.bin").write_bytes(bytes(range(256)))
    script = local / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    with vol.batch_upload() as batch:
        batch.put_directory(local / "tree", "/copy")
        batch.put_file(script, "run.sh")
        batch.put_file(io.BytesIO(b"from memory"), "/memory/file", mode=0o600)
        batch.put_file(io.BytesIO(b""), "empty")
    assert names(vol.listdir("/")) == ["copy", "empty", "memory", "run.sh"]
    copied = ["copy", "copy/a.txt", "copy/deep", "copy/deep/er", "copy/deep/er/b.bin"]
    everything = [*copied, "empty", "memory", "memory/file", "run.sh"]
    assert names(vol.iterdir("/")) == names(vol.listdir("", recursive=True)) == everything
    assert names(vol.listdir("copy/deep", recursive=True)) == ["copy/deep/er", "copy/deep/er/b.bin"]
    [entry] = vol.listdir("/memory/file")
    assert (entry.path, entry.size, entry.type.name) == ("memory/file", 11, "FILE")
    assert {entry.path: entry.type.name for entry in vol.listdir("/")}["copy"] == "DIRECTORY"
    assert read(vol, "memory/file") == b"from memory"
    assert read(vol, "/copy/deep/er/b.bin") == bytes(range(256))
    assert read(vol, "empty") == b""
    with raises(FileNotFoundError):
        read(vol, "nowhere")
    with raises(Exception, match="There is no 'nowhere'"):
        vol.listdir("nowhere")


def check_overwriting(local: Path) -> None:
    vol = volume("overwriting")
    with vol.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"first"), "file")
        batch.put_file(io.BytesIO(b"in"), "directory/inner")
    with raises(FileExistsError, match="file"), vol.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"never"), "new")
        batch.put_file(io.BytesIO(b"second"), "file")
    assert read(vol, "file") == b"first"
    assert "new" not in names(vol.listdir("/"))
    with vol.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"second"), "file")
    assert read(vol, "file") == b"second"
    with raises(FileExistsError, match="directory"), vol.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"x"), "directory")


def check_large_files(local: Path) -> None:
    vol = volume("large")
    pieces = os.urandom(9 * MIB) + bytes(10 * MIB) + b"end" + bytes(5)
    path = local / "large"
    path.write_bytes(pieces)
    with vol.batch_upload() as batch:
        batch.put_file(path, "large")
        batch.put_file(io.BytesIO(bytes(20 * MIB)), "zeros")
    assert hashlib.sha256(read(vol, "large")).digest() == hashlib.sha256(pieces).digest()
    assert read(vol, "zeros") == bytes(20 * MIB)
    target = io.BytesIO(b"..")
    target.seek(2)
    assert vol.read_file_into_fileobj("large", target) == len(pieces)
    assert hashlib.sha256(target.getvalue()[2:]).digest() == hashlib.sha256(pieces).digest()
    changed = bytearray(pieces)
    changed[3] ^= 1
    with vol.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(bytes(changed)), "large")
    assert read(vol, "large") == bytes(changed)


def check_removing(local: Path) -> None:
    vol = volume("removing")
    with vol.batch_upload() as batch:
        for path in ("a", "d/b", "d/e/c"):
            batch.put_file(io.BytesIO(path.encode()), path)
    vol.remove_file("a")
    with raises(FileNotFoundError):
        vol.remove_file("a")
    with raises(Exception, match="directory"):
        vol.remove_file("d")
    vol.remove_file("/d/e/", recursive=True)
    assert names(vol.iterdir("/")) == ["d", "d/b"]
    with raises(Exception, match="root"):
        vol.remove_file("/", recursive=True)


def check_copying(local: Path) -> None:
    vol = volume("copying")
    with vol.batch_upload() as batch:
        for path in ("a", "b", "d/c", "d/e/f"):
            batch.put_file(io.BytesIO(path.encode()), path, mode=0o640)
    vol.copy_files(["a"], "a2")
    vol.copy_files(["a", "b"], "d")
    vol.copy_files(["a"], "d/renamed")
    assert (read(vol, "a2"), read(vol, "d/b"), read(vol, "d/renamed")) == (b"a", b"b", b"a")
    with raises(Exception, match="directory"):
        vol.copy_files(["a", "b"], "a2")
    with raises(Exception, match="nowhere"):
        vol.copy_files(["nowhere"], "x")
    with raises(Exception, match="directory"):
        vol.copy_files(["d"], "x")
    if VERSION == 2:
        vol.copy_files(["d"], "x", recursive=True)
        assert names(vol.iterdir("x")) == ["x/a", "x/b", "x/c", "x/e", "x/e/f", "x/renamed"]
        vol.copy_files(["d/e"], "x", recursive=True)
        assert read(vol, "x/e/f") == b"d/e/f"
        with raises(Exception, match="itself"):
            vol.copy_files(["d"], "d/e", recursive=True)


def check_names(local: Path) -> None:
    if NEWEST:
        modal.Volume.objects.create("named", version=VERSION)
        with raises(AlreadyExistsError):
            modal.Volume.objects.create("named")
        modal.Volume.objects.create("named", allow_existing=True)
        assert "named" in [one.name for one in modal.Volume.objects.list()]
    vol = volume("named").hydrate()
    with vol.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"kept"), "file")
    modal.Volume.rename("named", "other")
    with raises(NotFoundError):
        modal.Volume.from_name("named").hydrate()
    again = modal.Volume.from_name("other", version=VERSION)
    assert read(again, "file") == b"kept"
    volume("third").hydrate()
    with raises(AlreadyExistsError, match="already exists"):
        modal.Volume.rename("other", "third")
    if NEWEST:
        with raises(Exception, match="version"):
            modal.Volume.from_name("other", version=3 - VERSION).hydrate()
        assert read(modal.Volume.from_id(vol.object_id), "file") == b"kept"
        assert modal.Volume.from_name("other").info().name == "other"
        modal.Volume.objects.delete("other")
        modal.Volume.objects.delete("other", allow_missing=True)
    else:
        modal.Volume.delete("other")
    with raises(NotFoundError, FileNotFoundError, match="deleted"):
        read(vol, "file")


def check_ephemeral(local: Path) -> None:
    with modal.Volume.ephemeral(version=VERSION) as vol:
        assert vol.listdir("/") == []
        with vol.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"x"), "x")
        assert read(vol, "x") == b"x"


def check_odd_names(local: Path) -> None:
    vol = volume("odd")
    odd = ["x" * 255, "a" * 20 + "/" + "b" * 200]
    odd += ["ünï/cödé", "cafe\u0301", "café", "\u202eright to left", "new\nline", " space ", "-rf", "*", "emoji 🕯"]
    with vol.batch_upload() as batch:
        for index, name in enumerate(odd):
            batch.put_file(io.BytesIO(str(index).encode()), name)
    for index, name in enumerate(odd):
        assert read(vol, name) == str(index).encode(), name
    long = "/".join(["d" * 250] * 16)  # 4,015 bytes
    with vol.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"deep"), long)
    assert read(vol, long) == b"deep"
    for bad in ("../up", "a/../../b", "y" * 256, "n\0ul", "/".join(["e" * 250] * 17), "f/" * 513 + "f"):
        with raises(Exception), vol.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"bad"), bad)
        with raises(Exception):
            read(vol, bad)


if __name__ == "__main__":
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            with tempfile.TemporaryDirectory() as directory:
                check(Path(directory))
            print(name, flush=True)
    print("all done", flush=True)
    os._exit(0)  # client 1.1 can hang in the tear-down of its own event loop
