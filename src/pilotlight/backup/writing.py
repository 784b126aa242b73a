"""A backup is written: the databases of one moment, then all the files that they refer to, which nobody sweeps meanwhile.

Invariant: a backup under its name is whole and on disk.
"""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pilotlight.backup import databases
from pilotlight.backup.archive import BLOCK_BYTES, Manifest, Part, Writer
from pilotlight.backup.trees import Packing
from pilotlight.config import Settings
from pilotlight.core.errors import AlreadyExists, Busy, InvalidInput
from pilotlight.objects.syncing import sync_directory

KEYS, VOLUMES = "keys.tar", "volumes.tar"
KEPT_WITH_KEYS = ("keys", "token")  # of the state directory
COUNTED = ("apps", "functions", "calls", "outputs", "images", "secrets", "webhooks", "dicts", "queues", "volumes", "tokens")

Told = Callable[[Part], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be in a backup beyond the databases, the objects and the images."""

    with_keys: bool
    with_volumes: bool


def refuse_target(target: Path, settings: Settings) -> None:
    """Raise if a backup can't be written under this name."""
    if target.exists():
        raise AlreadyExists(f"{target} is there already. Choose another name, or remove it first.")
    if not target.parent.is_dir():
        raise InvalidInput(f"There is no directory {target.parent} to write {target.name} to.")
    for place in (settings.state, settings.volumes_path):
        if target.is_relative_to(place):
            raise InvalidInput(
                f"{target} lies within {place}, which is to be backed up. Choose a name elsewhere, on another disk at best."
            )


def write(target: Path, snapshot: Path, settings: Settings, wish: Wish, *, told: Told, abandoned: threading.Event) -> Manifest:
    """Write an archive of a state whose databases were copied into `snapshot`; `told` hears of each part.

    Raises Busy if that fails or is `abandoned`; then no file is left.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            manifest = _fill(Writer(file), snapshot, settings, wish, told, abandoned)
            file.flush()
            os.fsync(descriptor)
        if target.exists():
            raise AlreadyExists(f"{target} was made by somebody else meanwhile. Choose another name.")
        draft.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise Busy(
            f"The backup can't be written: {error.strerror or error}, at {error.filename or target}. There is no new file."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def _fill(writer: Writer, snapshot: Path, settings: Settings, wish: Wish, told: Told, abandoned: threading.Event) -> Manifest:
    def add(name: str, blocks: Iterator[bytes]) -> None:
        told(writer.add(name, _until(abandoned, blocks)))

    database = snapshot / settings.database_path.name
    for path in (database, snapshot / settings.log_database_path.name):
        if path.exists():
            add(path.name, _read(path))
    trees = {
        "images.tar": Packing(settings.images_dir),
        "layers.tar": Packing(settings.layers_dir, ["./.making-*"]),
        "objects.tar": Packing(settings.objects_dir, ["./drafts", "./parts"]),
    }
    if wish.with_keys:
        others = [f"./{entry.name}" for entry in settings.state.iterdir() if entry.name not in KEPT_WITH_KEYS]
        trees[KEYS] = Packing(settings.state, others)
    if wish.with_volumes:
        trees[VOLUMES] = Packing(settings.volumes_path, ["./.pilotlight"])
    for name, packing in trees.items():
        if packing.directory.is_dir():
            add(name, packing.blocks())
    changed = trees[VOLUMES].changed if wish.with_volumes else ""
    manifest = Manifest(
        version=version("pilotlight"),
        schema=databases.schema_of(database) or "",
        created_at=time.time(),
        state=str(settings.state),
        counts={table: databases.count_rows(database, table) for table in COUNTED},
        parts=tuple(writer.parts),
        notes=(f"files of volumes changed while they were read: {changed}",) if changed else (),
    )
    writer.finish(manifest)
    return manifest


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _until(abandoned: threading.Event, blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        if abandoned.is_set():
            raise Busy(
                "The server went away while the backup was being written, and may have swept what belongs into it. Run it again."
            )
        yield block
