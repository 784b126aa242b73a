"""Where the agent's temporary files lie."""

import tempfile
from pathlib import Path

import pytest

from pilotlight.node.agent import take_temporary_directory


def test_what_a_killed_agent_left_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    directory = tmp_path / "node" / "temporary"
    take_temporary_directory(directory)
    left = Path(tempfile.mkdtemp(prefix="context-"))
    (left / "file").write_text("of a build")
    take_temporary_directory(directory)
    assert list(directory.iterdir()) == []
    assert Path(tempfile.mkdtemp()).parent == directory
