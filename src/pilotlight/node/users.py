"""The user that an image names, looked up in the image's own files.

Owns one invariant: nothing in an image, a symlink included, makes us read a file outside of it. Forms of the name, as in an OCI
image configuration: user, uid, user:group, uid:gid, uid:group, user:gid.
"""

import os
from collections.abc import Callable
from pathlib import Path

from pilotlight.core import errors
from pilotlight.node import syscalls
from pilotlight.node.bundle import User

MAX_FILE_BYTES = 4 * 1024 * 1024


def find_user(name: str, root: Path) -> User:
    """The user of a container whose root file system is mounted at `root`."""

    def read(path: str) -> str:
        try:
            fd = syscalls.open_in_root(root, path)
        except FileNotFoundError:
            return ""
        with os.fdopen(fd, "rb") as file:
            return file.read(MAX_FILE_BYTES).decode(errors="replace")

    return parse_user(name, read)


def parse_user(name: str, read: Callable[[str], str]) -> User:
    """The user by that name; `read` returns the text of a file in the image. Raises InvalidInput if there is none."""
    if name in ("", "root", "0", "0:0", "root:root"):
        return User()
    wanted, _, wanted_group = name.partition(":")
    accounts = [line.split(":") for line in read("/etc/passwd").splitlines()]
    account = next((a for a in accounts if len(a) >= 6 and wanted in (a[0], a[2]) and a[2].isdecimal() and a[3].isdecimal()), None)
    if account is None and not wanted.isdecimal():
        raise errors.InvalidInput(f"The image runs as user {wanted!r}, and its /etc/passwd has no such user.")
    uid = int(wanted) if account is None else int(account[2])
    gid = 0 if account is None else int(account[3])
    home = "/" if account is None else account[5] or "/"
    groups = [line.split(":") for line in read("/etc/group").splitlines()]
    groups = [group for group in groups if len(group) >= 4 and group[2].isdecimal()]
    if not wanted_group:
        member = account[0] if account else None
        return User(uid, gid, tuple(int(group[2]) for group in groups if member in group[3].split(",")), home)
    group = next((group for group in groups if wanted_group in (group[0], group[2])), None)
    if group is None and not wanted_group.isdecimal():
        raise errors.InvalidInput(f"The image runs as group {wanted_group!r}, and its /etc/group has no such group.")
    return User(uid, int(group[2]) if group else int(wanted_group), (), home)
