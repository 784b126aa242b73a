"""Layers seen as one tree, as overlayfs would show them."""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.images.trees import OPAQUE, Tree

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are device nodes")


@root_only
def test_upper_layers_win_and_hide(tmp_path: Path, layer: Callable[..., Path]) -> None:
    low = layer(tmp_path / "a", {"etc/one": "1", "etc/two": "2", "d/x": "x", "gone/y": "y"})
    high = layer(tmp_path / "b", {"etc/one": "new", "etc/two": None, "d/z": "z", "gone": None})
    os.setxattr(high / "d", OPAQUE, b"y")
    tree = Tree([low, high])
    assert tree.read_text("/etc/one") == "new"
    assert tree.find("/etc/two") is None
    assert list(tree.entries("/etc")) == ["one"]
    assert list(tree.entries("/d")) == ["z"]
    assert tree.find("/d/x") is None
    assert tree.find("/gone/y") is None
    assert sorted(tree.entries("/")) == ["d", "etc"]


def test_links_stay_inside(tmp_path: Path, layer: Callable[..., Path]) -> None:
    files = {"usr/lib/x": "x", "lib": "-> usr/lib", "out": "-> /../../etc/passwd", "a/up": "-> ../../usr/lib", "self": "-> self"}
    tree = Tree([layer(tmp_path / "a", files)])
    assert tree.resolve("/lib/x") == PurePosixPath("/usr/lib/x")
    assert tree.resolve("/lib", follow_last=False) == PurePosixPath("/lib")
    assert tree.resolve("/out") == PurePosixPath("/etc/passwd")
    assert tree.resolve("/a/up/new/file") == PurePosixPath("/usr/lib/new/file")
    assert tree.read_text("/lib/x") == "x"
    with pytest.raises(InvalidInput, match="loop of symbolic links"):
        tree.resolve("/self")


def test_a_file_above_hides_a_directory_below(tmp_path: Path, layer: Callable[..., Path]) -> None:
    tree = Tree([layer(tmp_path / "a", {"x/y": "1"}), layer(tmp_path / "b", {"x": "file"})])
    assert tree.find("/x/y") is None
    assert tree.read_text("/x") == "file"
