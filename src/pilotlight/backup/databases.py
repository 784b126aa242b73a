"""SQLite files, looked at and copied from outside: by this module's own connections, whoever else has the file open.

Invariant: a copy under its name is whole, on disk, and shows one moment of the database.
"""

import os
import secrets
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from pilotlight.core.errors import WrongState
from pilotlight.objects.syncing import sync_directory, sync_file

STEPS_BETWEEN_LOOKS = 100_000  # of SQLite's machine, between two looks at the clock
SHOWN_PROBLEMS = 3


def damage(path: Path, limit_s: float | None = None) -> list[str] | None:
    """What is wrong with a database file, in SQLite's words; empty for a sound one, None if the look took longer than the limit.

    It reads the whole file: pages, their links, the order of rows and keys. Not whether indexes and tables agree, which takes twice
    the time.
    """
    try:
        with closing(_opened(path)) as connection:
            if limit_s is not None:
                until = time.monotonic() + limit_s
                connection.set_progress_handler(lambda: time.monotonic() > until, STEPS_BETWEEN_LOOKS)
            found = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({SHOWN_PROBLEMS})")]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return None
        return [str(error)]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return [] if found == ["ok"] else found


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at this moment to a new file that only its owner can read; who writes to it is not held up."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(_opened(source)) as original, closing(sqlite3.connect(draft)) as drafted:
            original.backup(drafted)
            # The copy is one file: no log beside it that could be left behind.
            drafted.execute("PRAGMA journal_mode=DELETE")
        sync_file(draft)
        draft.rename(target)
        sync_directory(target.parent)
    finally:
        draft.unlink(missing_ok=True)


def schema_of(path: Path) -> str | None:
    """The name of a database's schema; None for one that has no tables of ours. Raises WrongState if it can't be read."""
    try:
        with closing(_opened(path)) as connection:
            has_version = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if has_version else None
    except sqlite3.DatabaseError as error:
        raise WrongState(f"{path} can't be read as a database: {error}.") from error
    return str(row[0]) if row else None


def count_rows(path: Path, table: str) -> int:
    """How many rows a table of ours has; 0 where there is no such table."""
    with closing(_opened(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone():
            return 0
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10.0)
