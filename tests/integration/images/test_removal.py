"""Trees of strangers are taken away, however deep, and what their links lead to stays."""

import os
from pathlib import Path

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.images.layers import directory_size_bytes
from pilotlight.images.removal import remove_tree

DEEPER_THAN_RECURSION = 3_000


def deep(top: Path) -> Path:
    """Directories in one another, made as a program does it: step by step, since their path is too long for any call."""
    top.mkdir()
    above = os.open(top, os.O_RDONLY)
    for _ in range(DEEPER_THAN_RECURSION):
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    return top


def test_a_tree_of_any_depth_goes(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    top = deep(tmp_path / "top")
    (top / "link").symlink_to(tmp_path / "kept")
    remove_tree(top)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    remove_tree(top)


def test_a_layer_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    top = deep(tmp_path / "top")
    try:
        with pytest.raises(InvalidInput, match="directories in one another"):
            directory_size_bytes(top)
    finally:
        remove_tree(top)  # pytest could not
