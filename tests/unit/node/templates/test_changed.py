"""Where a container's file system may differ from its template's, and what the import system makes of it."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.template_programs import loaded

from pilotlight.node.templates.warm import EVERYWHERE, MOST_CHANGED, MOST_CHANGED_BYTES, few, tops_of


@pytest.fixture
def fresh() -> ModuleType:
    return loaded("pilotlight_fresh")


def layer(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_the_directories_that_hold_all_of_a_layer(tmp_path: Path) -> None:
    assert tops_of(layer(tmp_path / "one", "root/a.py", "root/b/c.py")) == ("/root",)
    assert tops_of(layer(tmp_path / "deep", "usr/lib/python/thing/x.py")) == ("/usr/lib/python/thing",)
    assert sorted(tops_of(layer(tmp_path / "two", "root/app/a.py", "pkg/b.py"))) == ["/pkg", "/root/app"]
    (tmp_path / "none").mkdir()
    assert tops_of(tmp_path / "none") == ()


def test_a_file_at_the_top_of_a_layer(tmp_path: Path) -> None:
    assert tops_of(layer(tmp_path / "file", "program.py")) == ("/program.py",)


def test_more_than_can_be_told_is_everywhere(tmp_path: Path, fresh: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tops_of(layer(tmp_path / "many", *(f"{number}.py" for number in range(MOST_CHANGED + 1)))) == (EVERYWHERE,)
    paths = [f"/{number}" for number in range(MOST_CHANGED)]
    assert few(paths) == few([*paths, *paths]) == paths
    assert few([*paths, "/another"]) == few(["/" + "x" * MOST_CHANGED_BYTES]) == [EVERYWHERE]
    read: list[str] = []
    finder = ModuleType("finder")
    finder.invalidate_caches = lambda: read.append("anew")  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "path_importer_cache", {"/any/where": finder})
    fresh.forget_directories([EVERYWHERE])
    assert read == ["anew"]


def test_a_directory_that_changed_within_its_times_grain_is_read_anew(
    tmp_path: Path, fresh: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, other = tmp_path / "known", tmp_path / "other"
    for directory in (known, other):
        directory.mkdir()
        os.utime(directory, (1, 1))
    monkeypatch.setattr(sys, "path", [str(known), str(other), *sys.path])
    assert importlib.util.find_spec("appears_here") is None
    for directory in (known, other):
        (directory / "appears_here.py").touch()
        os.utime(directory, (1, 1))
    assert importlib.util.find_spec("appears_here") is None, "the times say that nothing has changed"
    fresh.forget_directories([f"{other}/below"])
    found = importlib.util.find_spec("appears_here")
    assert found is not None and found.origin == str(other / "appears_here.py")
    fresh.forget_directories([str(tmp_path)])
    found = importlib.util.find_spec("appears_here")
    assert found is not None and found.origin == str(known / "appears_here.py")
