"""The supervisor's own log: one line per event, to its file and, in the foreground, to the terminal. Never a secret.

Invariant: what can't be written (a full disk, a terminal that is gone) is lost, and nothing else comes of it.
"""

import errno
import os
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

ROTATE_AT_BYTES = 10 * 1024 * 1024
TAIL_BYTES = 64 * 1024


def open_log(path: Path) -> int:
    """A file descriptor that appends to a log; at ROTATE_AT_BYTES the old one becomes `<name>.1` first.

    Where there is no room for a log, what is written goes nowhere, even when there is room again (`goes_nowhere` tells): no process
    is kept from starting by that.
    """
    try:
        if path.exists() and path.stat().st_size >= ROTATE_AT_BYTES:
            path.replace(path.with_name(path.name + ".1"))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def goes_nowhere(log: int) -> bool:
    """Whether there was no room for this log when it was opened."""
    return stat.S_ISCHR(os.fstat(log).st_mode)


def tail(path: Path, lines: int, end_byte: int | None = None) -> list[str]:
    """The last lines of a log, or of its part before `end_byte`; none if there is no log."""
    try:
        with path.open("rb") as log:
            end = path.stat().st_size if end_byte is None else end_byte
            start = log.seek(max(0, end - TAIL_BYTES))
            return log.read(end - start).decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


class Journal:
    """Writes events. `echo` repeats them on standard error, for a supervisor in the foreground."""

    def __init__(self, path: Path, *, echo: bool) -> None:
        self._fd = open_log(path)
        self._echo = echo
        self._unended = ""

    def log(self, event: str, **fields: object) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = " ".join([at, event, *(f"{name}={value}" for name, value in fields.items())])
        data = f"{self._unended}{line}\n".encode()
        with suppress(OSError):
            written = data[: os.write(self._fd, data)]
            self._unended = "" if written.endswith(b"\n") else "\n"
        if self._echo:
            with suppress(OSError):
                print(line, file=sys.stderr, flush=True)
