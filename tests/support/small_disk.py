"""A real file system with little room, for tests of what a full disk does. Mounting needs root."""

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

PIECE = b"x" * 4096


class SmallDisk:
    """A tmpfs of a few MiB at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no byte free."""
        fd = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            with contextlib.suppress(OSError):  # no space left on device: that is the aim
                while os.write(fd, PIECE):
                    pass
        finally:
            os.close(fd)
        assert os.statvfs(self.path).f_bavail == 0

    def make_room(self) -> None:
        self._filler.unlink()


@contextlib.contextmanager
def small_disk(path: Path, size_mib: int) -> Generator[SmallDisk]:
    """Mount one at a new directory."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "pilotlight-test", str(path)], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
