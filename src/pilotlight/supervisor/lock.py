"""One supervisor per state directory: whoever holds the flock on `lock` is it, whatever files a killed one left behind."""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pilotlight.config import Settings

LOCK_FILE = "lock"


@dataclass(frozen=True)
class Running:
    """A supervisor that holds the lock. `pid` is 0 for the instant between its taking the lock and its saying who it is."""

    pid: int
    api: str
    web: str


def _path(settings: Settings) -> Path:
    return settings.state / LOCK_FILE


class InstanceLock:
    """The lock, held: it lasts until the last process that has this open file ends or closes it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def describe(self, settings: Settings) -> None:
        """Write who holds it, for `pilotlight down` and a second `up`."""
        document = json.dumps({"pid": os.getpid(), "api": settings.api, "web": settings.web})
        os.truncate(self.fd, 0)
        os.pwrite(self.fd, document.encode(), 0)

    def release(self) -> None:
        os.truncate(self.fd, 0)
        os.close(self.fd)


def take(settings: Settings) -> InstanceLock | None:
    """Take the lock of the state directory (which must exist), or None when a supervisor holds it."""
    fd = os.open(_path(settings), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if holder(settings) is None:  # somebody only looked
                continue
            os.close(fd)
            return None
        os.truncate(fd, 0)
        return InstanceLock(fd)


def holder(settings: Settings) -> Running | None:
    """The supervisor that holds the lock now, or None. Safe at any time."""
    try:
        fd = os.open(_path(settings), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # A shared lock: two that only look do not take each other for a supervisor.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(fd)
    else:
        return None
    finally:
        os.close(fd)


def _read(fd: int) -> Running:
    document: Mapping[str, object] = {}
    with suppress(ValueError):  # empty, or half written: it is just starting
        document = json.loads(os.pread(fd, 4096, 0))
    return Running(int(str(document.get("pid", 0))), str(document.get("api", "")), str(document.get("web", "")))
