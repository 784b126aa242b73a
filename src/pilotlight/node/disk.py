"""The limit of what a container writes to its own file system (`ephemeral_disk=`).

Owns one invariant: what carries the limit is mounted in the container's own mount namespace and its file has no name any more, so
both go with the container, whoever dies. Where loop devices can be had it is a sparse file with a file system of that size; else it
is in memory, and counts as the container's.
"""

import os
import shutil
import subprocess
from pathlib import Path

from pilotlight.core import errors

LEAST_MIB = 16  # a smaller file system has hardly room for itself
LOOP_CONTROL = Path("/dev/loop-control")
LOOP, TMPFS = "loop", "tmpfs"
# No journal, since it never outlives a crash; the tables are not written until they are used.
_MAKE = ("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard")


def method() -> str:
    """LOOP or TMPFS: what this machine offers."""
    return LOOP if LOOP_CONTROL.exists() and shutil.which("mkfs.ext4") and shutil.which("mount") else TMPFS


def limit(directory: Path, size_mib: int) -> None:
    """Let `directory`, which is empty, hold no more than that, for all in this thread's mount namespace. Raises PilotlightError.

    A limit that is larger than the disk is none: the disk is.
    """
    size_mib = max(LEAST_MIB, size_mib)
    there = os.statvfs(directory)
    if size_mib << 20 >= there.f_blocks * there.f_frsize:
        return
    if method() == TMPFS:
        _run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0755,nodev", "pilotlight-scratch", str(directory))
        return
    file = directory.with_name(f"{directory.name}.disk")
    try:
        with file.open("xb") as made:
            made.truncate(size_mib << 20)
        _run(*_MAKE, str(file))
        _run("mount", "-t", "ext4", "-o", "loop,nodev,noatime,discard", str(file), str(directory))
    finally:
        file.unlink(missing_ok=True)  # the loop device has it open, and closes it with its last mount
    (directory / "lost+found").rmdir()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise errors.PilotlightError(
            f"A limited disk could not be made: {command[0]} says {done.stderr.strip() or done.returncode}. "
            "`pilotlight doctor` says what this machine offers for `ephemeral_disk`.",
            command=command,
        )
