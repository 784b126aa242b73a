"""What mounts go onto: made once for all containers that have the same."""

import errno
from pathlib import Path

import pytest

from pilotlight.core.containers import Bind, ContainerSpec
from pilotlight.node.mount_points import MountPoints


def spec(number: int, *binds: Bind) -> ContainerSpec:
    return ContainerSpec(f"ta-{number}", (), ("program",), binds=binds)


def test_containers_with_the_same_mounts_share_them(tmp_path: Path) -> None:
    points = MountPoints(tmp_path / "points")
    (tmp_path / "data").mkdir()
    (tmp_path / "file").touch()
    volume, file = Bind(tmp_path / "data", "/data/of/mine"), Bind(tmp_path / "file", "/__pilotlight/arguments")
    shared = points.of(spec(1, volume, file))
    assert points.of(spec(2, file, volume)) == shared
    assert (shared / "data/of/mine").is_dir() and (shared / "__pilotlight/arguments").is_file() and (shared / "proc").is_dir()
    assert points.of(spec(3, file)) != shared
    assert points.of(spec(3, file), ["/stage"]) not in (shared, points.of(spec(3, file)))


def test_targets_stay_inside_and_a_directory_wins_over_a_file(tmp_path: Path) -> None:
    points = MountPoints(tmp_path / "points")
    (tmp_path / "data").mkdir()
    (tmp_path / "file").touch()
    made = points.of(
        spec(1, Bind(tmp_path / "file", "/../../up"), Bind(tmp_path / "file", "/both"), Bind(tmp_path / "data", "/both"))
    )
    assert (made / "up").is_file() and (made / "both").is_dir()


def test_after_a_sweep_they_are_made_again(tmp_path: Path) -> None:
    points = MountPoints(tmp_path / "points")
    made = points.of(spec(1))
    points.sweep()
    assert not made.exists()
    assert points.of(spec(1)).is_dir()


def test_a_full_disk_is_in_nobodys_way_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = MountPoints(tmp_path / "points")
    made = Path.touch

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "touch", fail)
    with pytest.raises(OSError, match="No space"):
        points.of(ContainerSpec("ta-1", (), (), {}))
    monkeypatch.setattr(Path, "touch", made)
    assert (points.of(ContainerSpec("ta-1", (), (), {})) / "etc" / "hosts").is_file()
    assert len(list((tmp_path / "points").iterdir())) == 1
