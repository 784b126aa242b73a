"""A clock that can be set for the processes of one platform alone; the machine's own stays as it is.

A library of some lines (clock.c) is preloaded into them and adds an offset to the time of day. What runs in containers has the
machine's time.
"""

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """Its library and its offset live in a directory that the processes can read."""

    def __init__(self, directory: Path) -> None:
        self._library = directory / "clock.so"
        self._offset = directory / "clock.offset"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", self._library, SOURCE], check=True)
        self._offset.write_bytes(struct.pack("q", 0))

    @staticmethod
    def can_be_made() -> bool:
        """Whether this machine has a C compiler."""
        return shutil.which("cc") is not None

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process must be started with."""
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._offset)}

    def set(self, offset_s: float) -> None:
        """From now on its time is the machine's and so many seconds."""
        descriptor = os.open(self._offset, os.O_RDWR | os.O_CLOEXEC)
        try:
            with mmap.mmap(descriptor, 8) as page:
                page[:8] = struct.pack("q", int(offset_s * 1e9))
        finally:
            os.close(descriptor)
