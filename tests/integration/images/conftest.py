"""Layers as tests write them down."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

MakeLayer = Callable[[Path, dict[str, str | None]], Path]


def _layer(root: Path, files: dict[str, str | None]) -> Path:
    """A layer of files with this content; "-> x" is a symbolic link, None a whiteout."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        elif content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_text(content)
    return root


@pytest.fixture
def layer() -> MakeLayer:
    """Writes files into a directory and returns it."""
    return _layer
