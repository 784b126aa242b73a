"""What a container would see in a stack of layers, without starting one.

Invariant: lookups answer as overlayfs would (upper layers win, whiteouts hide, opaque directories hide what is below), and never
leave the layers: symbolic links are followed inside the image, with its root as the root.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pilotlight.core.errors import InvalidInput

OPAQUE = "trusted.overlay.opaque"
MAX_LINKS = 40  # as the kernel's
MAX_DEPTH = 512  # directories in one another, of a layer or a mount: less than what Python goes down by recursion


def is_whiteout(path: Path) -> bool:
    """Whether this entry of a layer says that the name does not exist."""
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: Path) -> bool:
    """Whether this directory of a layer hides what layers below have under its name."""
    try:
        return os.getxattr(directory, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


class Tree:
    """A read-only view of layer directories, lowest first."""

    def __init__(self, layers: Sequence[Path]) -> None:
        self._layers = tuple(reversed(layers))

    def find(self, path: str | PurePosixPath) -> Path | None:
        """The host's path of this entry, whose own parents must not be symbolic links; None where there is none."""
        found = self._places(_parts(path))
        return found[0] if found else None

    def resolve(self, path: str | PurePosixPath, follow_last: bool = True) -> PurePosixPath:
        """The path with all symbolic links followed, what does not exist as it is written; errors: InvalidInput for loops."""
        todo = list(reversed(_parts(path)))
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            here = self.find("/".join([*done, part]))
            if here is None or not here.is_symlink() or (not todo and not follow_last):
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise InvalidInput(f"Path {str(path)!r} of the image is a loop of symbolic links.")
            target = str(here.readlink())
            if target.startswith("/"):
                done = []
            todo.extend(reversed(_parts(target)))
        return PurePosixPath("/", *done)

    def open(self, path: str | PurePosixPath) -> Path | None:
        """The host's path of what this path means inside the image, links followed; None where there is nothing."""
        return self.find(self.resolve(path))

    def entries(self, path: str | PurePosixPath) -> dict[str, Path]:
        """The directory's names and where each lies on the host, sorted; empty where there is no such directory."""
        names: dict[str, Path | None] = {}
        for directory in self._places(_parts(path)):
            if not directory.is_dir() or directory.is_symlink():
                break
            for entry in directory.iterdir():
                names.setdefault(entry.name, None if is_whiteout(entry) else entry)
        return {name: entry for name, entry in sorted(names.items()) if entry is not None}

    def read_text(self, path: str | PurePosixPath) -> str:
        """The file's text; empty where there is no such file."""
        found = self.open(path)
        return found.read_text(errors="replace") if found is not None and found.is_file() else ""

    def _places(self, parts: list[str]) -> list[Path]:
        """Where this path lies, topmost first: one place for a file, each layer's part of it for a directory."""
        places: list[Path] = []
        for layer in self._layers:
            here, hides = _descend(layer, parts)
            if here is not None:
                places.append(here)
                hides = hides or here.is_symlink() or not here.is_dir() or is_opaque(here)
            if hides:
                break
        return places


def _descend(layer: Path, parts: list[str]) -> tuple[Path | None, bool]:
    """This layer's entry for the path, if any, and whether it hides what is below."""
    here, hides = layer, False
    for part in parts:
        if here.is_symlink() or not here.is_dir():
            return None, True
        hides = hides or is_opaque(here)
        here = here / part
        if not os.path.lexists(here):
            return None, hides
        if is_whiteout(here):
            return None, True
    return here, hides


def _parts(path: str | PurePosixPath) -> list[str]:
    return [part for part in str(path).split("/") if part not in ("", ".")]
