"""Opening the databases of a state directory: sound ones only, in a schema that this version knows, brought to its newest.

Invariant: no schema is changed before a copy of the database as it was is on disk.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy import Engine

from pilotlight.backup import databases
from pilotlight.core.errors import WrongState
from pilotlight.store import output_tables
from pilotlight.store.database import create_missing, open_engine
from pilotlight.store.schema import migrate, newest, refuse_unknown

log = structlog.get_logger()

CHECK_LIMIT_S = 5.0  # for the look at a database before the start goes on; what is left of it is looked at meanwhile
COPIES_DIR = "before-migration"
CHECKED_FILE = "databases-checked"  # in the run directory: by which supervisor's first server
OUTPUT_SYNCHRONOUS = "NORMAL"  # a power cut may take the last lines that programs printed, never a call
ROOM_FACTOR = 1.1  # of a database's size, that has to be free for its copy

Note = Callable[[str], None]


def open_databases(path: Path, output_path: Path, synchronous: str, run_dir: Path, note: Note) -> tuple[Engine, Engine]:
    """The platform's database and that of what programs printed, sound and in the newest schema.

    Sound: they are looked at once for each start of the platform, not when its supervisor starts the server again. `note` is told
    what the operator should know. Raises WrongState for a damaged database, or one of a newer schema; then nothing was changed.
    """
    marker = run_dir / CHECKED_FILE
    supervisor = str(os.getppid())
    if not marker.exists() or marker.read_text() != supervisor:
        state = path.parent
        refuse_damaged(
            path,
            advice=f"Nothing was changed. Restore a backup: move {state} away, then `pilotlight restore FILE --state {state}`.",
        )
        refuse_damaged(
            output_path,
            advice=f"It holds only what programs printed. Move it away ({output_path}*) to start without, or restore a backup.",
        )
        if run_dir.exists():
            marker.write_text(supervisor)
    for database in (path, output_path):
        _keep_private(database)
    engine = _open_newest(path, synchronous, note)
    output_engine = open_engine(output_path, OUTPUT_SYNCHRONOUS)
    create_missing(output_engine, output_tables.metadata)
    return engine, output_engine


def _keep_private(path: Path) -> None:
    """Nobody else reads a database, whatever its directory lets others do. New companions (-wal, -shm) get the mode of the file."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if file.exists():
            file.chmod(0o600)


def _open_newest(path: Path, synchronous: str, note: Note) -> Engine:
    if path.exists() and path.stat().st_size:
        refuse_unknown(path)
        if (before := databases.schema_of(path)) not in (None, newest()):
            copy = _keep_copy(path, str(before))
            engine = open_engine(path, synchronous)
            migrate(engine)
            note(
                f"The database was of schema {before}, an older version's, and is of schema {newest()} now. As it was, it is kept "
                f"as {copy}: to go back, stop the platform and put that file in the place of {path} (removing {path.name}-wal and "
                f"{path.name}-shm)."
            )
            return engine
    engine = open_engine(path, synchronous)
    migrate(engine)
    return engine


def refuse_damaged(path: Path, *, advice: str) -> None:
    """Raise WrongState if a database file is damaged. A large one is looked at to its end while the start goes on."""
    if not path.exists() or not path.stat().st_size:
        return
    started = time.monotonic()
    found = databases.damage(path, CHECK_LIMIT_S)
    if found is None:
        log.info("database_check_goes_on", path=str(path), after_s=CHECK_LIMIT_S)
        threading.Thread(target=_look_to_the_end, args=(path, advice), name="check", daemon=True).start()
    elif found:
        raise WrongState(_damaged(path, found, advice))
    else:
        log.info("database_checked", path=str(path), seconds=round(time.monotonic() - started, 3))


def _look_to_the_end(path: Path, advice: str) -> None:
    if found := databases.damage(path):
        log.error("database_damaged", message=_damaged(path, found, advice))
    else:
        log.info("database_checked", path=str(path))


def _damaged(path: Path, found: list[str], advice: str) -> str:
    return f"The database {path} is damaged ({'; '.join(found)}). {advice}"


def _keep_copy(path: Path, schema: str) -> Path:
    place = path.parent / COPIES_DIR
    place.mkdir(mode=0o700, exist_ok=True)
    copy = place / f"{path.stem}-{schema}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}{path.suffix}"
    needed = int(path.stat().st_size * ROOM_FACTOR)
    if shutil.disk_usage(place).free < needed:
        raise WrongState(
            f"The database {path} is of an older version's schema. Before it is changed a copy is kept in {place}, which takes "
            f"{needed >> 20} MiB, and there is less room than that. Nothing was changed; make room, then start again."
        )
    databases.copy(path, copy)
    return copy
