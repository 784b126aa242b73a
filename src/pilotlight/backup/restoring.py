"""A backup becomes a state directory: whole, or not at all.

Invariant: what does not come through every check leaves nothing behind, and nothing that was there is touched.
"""

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pilotlight.backup import databases
from pilotlight.backup.archive import Manifest, Part, Reader
from pilotlight.backup.trees import Unpacking
from pilotlight.backup.writing import KEYS
from pilotlight.core.errors import Busy, InvalidInput, WrongState
from pilotlight.store.schema import known

TREES = {"images.tar": "images", "layers.tar": "layers", "objects.tar": "objects", "volumes.tar": "volumes", KEYS: "."}
DATABASES = ("pilotlight.db", "output.db")
SEALED = ("secrets", "webhooks")  # tables whose rows nobody can read without the keys
KEY_FILES = ("secrets.key", "webhooks.key")

Told = Callable[[Part], None]


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the keys come from that the archive may lack: a directory with the files of `keys/`, or from nowhere, knowingly."""

    directory: Path | None = None
    may_lack: bool = False


def restore(path: Path, state: Path, keys: Keys, *, told: Told) -> Manifest:
    """Make a state directory of a backup; `told` hears of each part.

    Raises InvalidInput or WrongState for a directory that is in use, a damaged archive, one of a newer version, or one that lacks
    keys; Busy if the disk does not take it.
    """
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    if state.exists() and (not state.is_dir() or any(state.iterdir())):
        raise WrongState(
            f"{state} is not empty. A backup is restored to a new place: move that away, or name another with --state."
        )
    with closing(Reader(path)) as reader:
        manifest = reader.manifest
        _refuse(path, manifest, keys)
        draft = state.with_name(f".{state.name}.{secrets.token_hex(8)}")
        try:
            draft.mkdir(mode=0o700, parents=True)
            for part in manifest.parts:
                _extract(reader, part, draft)
                told(part)
            if keys.directory is not None:
                _take_keys(keys.directory, draft / "keys")
            if problems := databases.damage(draft / DATABASES[0]):
                raise WrongState(f"The database in {path} was damaged when it was backed up: {'; '.join(problems)}.")
            os.sync()
            state.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(state)  # onto an empty directory, or none
            os.sync()
        except OSError as error:
            raise Busy(f"{path} can't be restored: {error.strerror or error}, at {error.filename or draft}.") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _refuse(path: Path, manifest: Manifest, keys: Keys) -> None:
    if manifest.schema not in known():
        raise WrongState(
            f"{path} was made by Pilotlight {manifest.version} and has schema {manifest.schema}, which this version does not know: "
            "restore it with that version or a newer one."
        )
    sealed = {table: manifest.counts.get(table, 0) for table in SEALED}
    if not any(sealed.values()) or manifest.has(KEYS) or keys.directory is not None or keys.may_lack:
        return
    raise InvalidInput(
        f"{path} holds no keys, and without them nobody can read its {sealed['secrets']} secrets and {sealed['webhooks']} "
        "webhooks. Name a copy of the old platform's `keys` directory with --keys DIR, or give those up with --without-keys."
    )


def _extract(reader: Reader, part: Part, draft: Path) -> None:
    if part.name in DATABASES:
        descriptor = os.open(draft / part.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            reader.extract(part, file.write)
        return
    if part.name not in TREES:
        raise WrongState(
            f"The backup has a part {part.name}, which this version of Pilotlight does not know: a newer one has made it."
        )
    directory = draft / TREES[part.name]
    directory.mkdir(mode=0o700, exist_ok=True)
    with Unpacking(directory) as unpacking:
        reader.extract(part, unpacking.write)


def _take_keys(source: Path, target: Path) -> None:
    if missing := [name for name in KEY_FILES if not (source / name).is_file()]:
        raise InvalidInput(f"{source} has no {' and no '.join(missing)}: name a copy of the old platform's `keys` directory.")
    target.mkdir(mode=0o700, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            descriptor = os.open(target / path.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(path.read_bytes())
