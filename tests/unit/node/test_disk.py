"""When a limited disk is made at all, and what carries it."""

from pathlib import Path

import pytest

from pilotlight.core import errors
from pilotlight.node import disk


def test_a_limit_beyond_the_disk_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(disk, "_run", lambda *command: ran.append(command[0]))
    disk.limit(tmp_path, 1 << 40)
    assert not ran


def test_without_loop_devices_or_tools_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = tmp_path / "loop-control"
    monkeypatch.setattr(disk, "LOOP_CONTROL", control)
    monkeypatch.setattr(disk.shutil, "which", lambda name: f"/usr/sbin/{name}")
    assert disk.method() == disk.TMPFS
    control.touch()
    assert disk.method() == disk.LOOP
    monkeypatch.setattr(disk.shutil, "which", lambda name: None)
    assert disk.method() == disk.TMPFS


def test_what_can_not_be_made_says_why_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "ta-1"
    place.mkdir()
    monkeypatch.setattr(disk, "method", lambda: disk.LOOP)
    monkeypatch.setattr(disk, "_MAKE", ("sh", "-c", "echo no inodes >&2; exit 1"))
    with pytest.raises(errors.PilotlightError, match=r"no inodes.*doctor"):
        disk.limit(place, 16)
    assert [path.name for path in tmp_path.iterdir()] == ["ta-1"]
