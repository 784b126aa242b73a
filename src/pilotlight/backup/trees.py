"""Directories to tar and back, by the tar of this machine: owners, modes, links, devices, holes and extended attributes stay."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pilotlight.backup.archive import BLOCK_BYTES
from pilotlight.core.errors import Busy

CHANGED = 1  # tar's exit code where files changed or went while they were read
TOLD_BYTES = 2000
_KEEP = ("--numeric-owner", "--xattrs", "--xattrs-include=*")


class Packing:
    """A directory as the bytes of a tar. `changed` holds what tar said of files that changed meanwhile, once all was read."""

    def __init__(self, directory: Path, exclude: Sequence[str] = ()) -> None:
        self.directory = directory
        self._exclude = exclude
        self.changed = ""

    def blocks(self) -> Iterator[bytes]:
        """The bytes; raises Busy if tar can't go on."""
        excluded = [f"--exclude={pattern}" for pattern in self._exclude]
        command = ["tar", "--create", "--file=-", *_KEEP, "--sparse", "--anchored", *excluded, f"--directory={self.directory}", "."]
        with tempfile.TemporaryFile() as told, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told) as tar:
            assert tar.stdout is not None
            try:
                while block := tar.stdout.read(BLOCK_BYTES):
                    yield block
            except GeneratorExit:
                tar.kill()
                raise
            if tar.wait() not in (0, CHANGED):
                raise Busy(f"{self.directory} can't be packed: {_said(told)}")
            if tar.returncode == CHANGED:
                self.changed = _said(told)


class Unpacking:
    """A directory that is filled from the bytes of such a tar: `write` them, then leave the block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._told: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the block
        command = ["tar", "--extract", "--file=-", *_KEEP, "--same-owner", "--preserve-permissions", f"--directory={directory}"]
        self._tar = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._told)

    def __enter__(self) -> "Unpacking":
        return self

    def write(self, block: bytes) -> None:
        """Unpack more; raises Busy if tar has given up."""
        assert self._tar.stdin is not None
        try:
            self._tar.stdin.write(block)
        except BrokenPipeError as error:
            self._tar.wait()
            raise self._failed() from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._tar.stdin is not None
        try:
            if kind is not None:
                self._tar.kill()
            with suppress(BrokenPipeError):  # its exit code says why
                self._tar.stdin.close()
            if self._tar.wait() != 0 and kind is None:
                raise self._failed()
        finally:
            self._told.close()

    def _failed(self) -> Busy:
        return Busy(f"{self._directory} can't be filled: {_said(self._told)}")


def _said(told: IO[bytes]) -> str:
    told.seek(0)
    return told.read(TOLD_BYTES).decode(errors="replace").strip()
