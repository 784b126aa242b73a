"""Mounts become directories."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from pilotlight.config import Settings
from pilotlight.core.errors import InvalidInput, NotFound
from pilotlight.images.mounts import LocalContent, Mounts, relative_path
from pilotlight.wire import platform_pb2


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path)


def entry(settings: Settings, path: str, text: str, mode: int = 0o644) -> platform_pb2.MountEntry:
    digest = hashlib.sha256(text.encode()).hexdigest()
    (settings.objects_dir / "sha256").mkdir(parents=True, exist_ok=True)
    (settings.objects_dir / "sha256" / digest).write_text(text)
    return platform_pb2.MountEntry(path=path, sha256=digest, size=len(text), mode=mode)


def layer(settings: Settings, *files: platform_pb2.MountEntry) -> Path:
    mounts = Mounts(settings, LocalContent(settings.objects_dir))
    return asyncio.run(mounts.layer(platform_pb2.Mount(mount_id="mo-1", files=files)))


def test_files_by_path_content_and_mode(settings: Settings) -> None:
    root = layer(
        settings, entry(settings, "/root/a.py", "a"), entry(settings, "/root/b/run", "b", 0o755), entry(settings, "/c", "a")
    )
    assert (root / "root/a.py").read_text() == "a"
    assert (root / "root/b/run").stat().st_mode & 0o777 == 0o755
    assert (root / "c").stat().st_ino == (root / "root/a.py").stat().st_ino
    assert root.stat().st_mode & 0o777 == 0o755


def test_the_same_content_is_the_same_directory(settings: Settings) -> None:
    files = [entry(settings, "/a", "1"), entry(settings, "/b", "2")]
    assert layer(settings, *files) == layer(settings, *reversed(files))
    assert layer(settings, files[0]) != layer(settings, files[1])


@pytest.mark.parametrize("path", ["../x", "/a/../../x", "/", "", "a\0b"])
def test_what_would_leave_the_root(path: str) -> None:
    with pytest.raises(InvalidInput, match="does not name a file below the root"):
        relative_path(path)


def test_a_file_that_was_never_uploaded_leaves_nothing(settings: Settings) -> None:
    good = entry(settings, "/a", "1")
    missing = platform_pb2.MountEntry(path="/b", sha256="0" * 64)
    with pytest.raises(NotFound, match="never uploaded"):
        layer(settings, good, missing)
    assert list((settings.node_dir / "mounts").iterdir()) == []


def test_a_hash_from_outside_is_no_path(settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="is not a SHA-256"):
        layer(settings, platform_pb2.MountEntry(path="/b", sha256="../../etc/passwd"))
