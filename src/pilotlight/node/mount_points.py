"""The lowest layer of each container: what mounts go onto, so that nobody need create it in the image or in what is written.

Owns one invariant: a directory of them is complete when it is handed out, and never changes. It is made once for all containers
that have the same mounts; it lies beside the layers, on a file system that maps ids.
"""

import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from pilotlight.core.containers import ContainerSpec
from pilotlight.node.bundle import INIT_TARGET

ALWAYS = ("/proc", "/sys", "/dev", "/etc")
OWN_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")

Points = frozenset[tuple[str, bool]]
"""(path in the container, whether it is a directory)."""


class MountPoints:
    """All of one platform on this machine. Any thread may ask."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[Points, Path] = {}
        self._lock = threading.Lock()

    def of(self, spec: ContainerSpec, directories: Iterable[str] = ()) -> Path:
        """The layer with what this container's mounts go onto, and these directories."""
        wanted = points_of(spec) | {(target, True) for target in directories}
        with self._lock:
            if (known := self._known.get(wanted)) is not None:
                return known
            made = self._directory / str(len(self._known))
            shutil.rmtree(made, ignore_errors=True)  # of an attempt that failed, as on a full disk
            made.mkdir(parents=True)
            made.chmod(0o755)
            _fill(made, wanted)
            self._known[wanted] = made
            return made

    def sweep(self) -> None:
        """Remove all of them; no container may be there."""
        self._known.clear()
        shutil.rmtree(self._directory, ignore_errors=True)


def points_of(spec: ContainerSpec) -> Points:
    """What the mounts of a container go onto."""
    files = [(target, False) for target in (INIT_TARGET, *OWN_FILES)]
    binds = [(bind.target, bind.source.is_dir()) for bind in spec.binds if not bind.is_device]  # devices lie in a tmpfs
    return frozenset([*((target, True) for target in ALWAYS), *files, *binds])


def _fill(directory: Path, wanted: Points) -> None:
    # Directories first: what is said to be both is one.
    for target, is_dir in sorted(wanted, key=lambda point: (not point[1], point[0])):
        # Joined lexically, and nothing but our own directories is below: no symlink of an image is followed.
        point = directory / os.path.normpath("/" + target).lstrip("/")
        point.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if is_dir:
            point.mkdir(mode=0o755, exist_ok=True)
        elif not point.exists():
            point.touch()
