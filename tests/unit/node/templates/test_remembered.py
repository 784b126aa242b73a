"""Recipes over a restart of the agent."""

from pathlib import Path

import pytest

from pilotlight.core.containers import Recipe
from pilotlight.node.templates import remembered


def test_what_was_written_comes_back_while_its_layers_are_there(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    kept = Recipe((tmp_path / "here",), ("python", "-m", "x"), {"A": "1"}, ("numpy",))
    remembered.save(tmp_path / "templates.json", [kept, Recipe((tmp_path / "gone",), (), {})])
    assert remembered.load(tmp_path / "templates.json") == [kept]
    assert (tmp_path / "templates.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"layers": 1}]'])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "templates.json").write_text(text)
    assert remembered.load(tmp_path / "templates.json") == []


def test_none_is_none(tmp_path: Path) -> None:
    assert remembered.load(tmp_path / "templates.json") == []
