"""The supervisor's own log: one line per event, to its file and, in the foreground, to the terminal. Never a secret."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

ROTATE_AT_BYTES = 10 * 1024 * 1024
TAIL_BYTES = 64 * 1024


def open_log(path: Path) -> int:
    """A file descriptor that appends to a log; at ROTATE_AT_BYTES the old one becomes `<name>.1` first."""
    if path.exists() and path.stat().st_size >= ROTATE_AT_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


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

    def log(self, event: str, **fields: object) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = " ".join([at, event, *(f"{name}={value}" for name, value in fields.items())])
        os.write(self._fd, f"{line}\n".encode())
        if self._echo:
            print(line, file=sys.stderr, flush=True)
