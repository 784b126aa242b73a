"""Image layers on disk.

Invariant: a layer that exists is whole and never changes. It is made in a directory of its own, flushed, renamed into place, and
counts only from the moment its record (`<id>.json`) is there; whatever else lies around is litter that `sweep` removes.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pilotlight.core.errors import InvalidInput, NotFound
from pilotlight.images import programs
from pilotlight.images.removal import remove_tree
from pilotlight.images.trees import MAX_DEPTH
from pilotlight.objects.syncing import sync_directory

MAKING_PREFIX = ".making-"
NOTED_EVERY_S = 600.0  # how often the disk is told of a layer's use
_ID = re.compile(r"[0-9a-f]{64}")

Fill = Callable[[Path], Awaitable[None]]
"""Fills an empty directory with a layer's content; raises to give up."""


@dataclass(frozen=True)
class LayerRecord:
    """What is known of a layer; `parent` is the layer below it, or empty."""

    layer_id: str
    parent: str
    command: str
    created_at: float
    size_bytes: int


def definition_id(kind: str, *parts: object) -> str:
    """The id of the layer that this definition always gives: 64 hex digits. Parts are whatever JSON can hold."""
    text = json.dumps([kind, *parts], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def step_id(
    layers: Sequence[str],
    step: object,
    *,
    content: Sequence[str] = (),
    secrets: object = (),
    build_args: object = (),
    salt: str = "",
) -> str:
    """The id of the layer that a build step makes over these layers (lowest first).

    `content` are hashes of what the step reads from outside the image; values of secrets enter only as part of the hash. `salt`
    keeps a forced rebuild apart from the layer that it must not disturb.
    """
    sealed = hashlib.sha256(json.dumps(secrets, sort_keys=True).encode()).hexdigest()
    return definition_id("step", list(layers), step, list(content), sealed, build_args, salt)


class LayerStore:
    """The layers of one platform on one machine. Several processes may use the same directory."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}
        self._serial = itertools.count()
        self._used_at: dict[str, float] = {}

    def path(self, layer_id: str) -> Path:
        """The layer's directory; errors: NotFound."""
        if not self.has(layer_id):
            raise NotFound(f"Image layer {layer_id[:12]} is not on this machine. Rebuild the image that uses it.")
        self._note_use(layer_id)
        return self._root / layer_id

    def paths(self, layer_ids: Sequence[str]) -> tuple[Path, ...]:
        """The directories of these layers, in the same order; errors: NotFound."""
        return tuple(self.path(layer_id) for layer_id in layer_ids)

    def has(self, layer_id: str) -> bool:
        """Whether the layer is here and whole."""
        return _ID.fullmatch(layer_id) is not None and self._record_path(layer_id).exists()

    def record(self, layer_id: str) -> LayerRecord:
        """What is known of the layer; errors: NotFound. To look is not to use."""
        try:
            return LayerRecord(**json.loads(self._record_path(layer_id).read_text()))
        except FileNotFoundError as error:
            raise NotFound(f"Image layer {layer_id[:12]} is not on this machine.") from error

    def list(self) -> list[LayerRecord]:
        """All layers, oldest first."""
        found: list[LayerRecord] = []
        for path in self._root.glob("*.json"):
            if _ID.fullmatch(path.stem):
                with contextlib.suppress(NotFound):  # it is removed right now
                    found.append(self.record(path.stem))
        return sorted(found, key=lambda record: record.created_at)

    def used_at(self, layer_id: str) -> float:
        """When the layer was last used or made, by any process, to about NOTED_EVERY_S; errors: NotFound."""
        try:
            noted = self._record_path(layer_id).stat().st_mtime
        except FileNotFoundError as error:
            raise NotFound(f"Image layer {layer_id[:12]} is not on this machine.") from error
        return max(noted, self._used_at.get(layer_id, 0.0))

    async def remove(self, layer_id: str, *, used_before: float = float("inf")) -> bool:
        """Forget a layer that no image uses, unless somebody has used it since; returns whether it went. Safe to repeat."""
        async with self._lock(layer_id):
            if not self.has(layer_id) or self.used_at(layer_id) >= used_before:
                return False
            self._record_path(layer_id).unlink(missing_ok=True)
            # Out of the way before it is emptied: who makes the same layer finds its place free.
            doomed = self._root / f"{MAKING_PREFIX}{os.getpid()}-{next(self._serial)}"
            (self._root / layer_id).rename(doomed)
        self._used_at.pop(layer_id, None)
        await asyncio.to_thread(remove_tree, doomed)
        return True

    async def make(self, layer_id: str, *, parent: str, command: str, fill: Fill) -> bool:
        """Make the layer unless it is there; returns whether it was made now.

        Whoever asks for the same layer at the same time waits for the one who makes it, and takes over if that one fails.
        Whatever `fill` raises is passed on and leaves nothing behind.
        """
        if self.has(layer_id):
            self._note_use(layer_id)
            return False
        async with self._lock(layer_id):
            if self.has(layer_id):
                self._note_use(layer_id)
                return False
            with self._making() as making:
                content = making / "layer"
                content.mkdir()
                content.chmod(0o755)  # it becomes the root of what containers see, whatever our own umask is
                await fill(content)
                size_bytes = await asyncio.to_thread(directory_size_bytes, content)
                await flush(content)
                self._settle(LayerRecord(layer_id, parent, command, self._clock(), size_bytes), content)
            return True

    def sweep(self) -> int:
        """Remove what interrupted builds left; returns how many. Builds of live processes are left alone."""
        if not self._root.is_dir():
            return 0
        litter = [path for path in self._root.glob(f"{MAKING_PREFIX}*") if not owner_lives(path.name)]
        litter += [path for path in self._root.iterdir() if _ID.fullmatch(path.name) and not self.has(path.name)]
        for path in litter:
            remove_tree(path)
        return len(litter)

    @contextlib.asynccontextmanager
    async def _lock(self, layer_id: str):
        lock = self._locks.setdefault(layer_id, asyncio.Lock())
        self._waiting[layer_id] = self._waiting.get(layer_id, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[layer_id] -= 1
            if not self._waiting[layer_id]:
                del self._waiting[layer_id], self._locks[layer_id]

    @contextlib.contextmanager
    def _making(self):
        # A directory of its own around the layer: the overlay's work directory has to lie beside it.
        making = self._root / f"{MAKING_PREFIX}{os.getpid()}-{next(self._serial)}"
        making.mkdir(parents=True)
        try:
            yield making
        finally:
            remove_tree(making)

    def _settle(self, record: LayerRecord, content: Path) -> None:
        # The record must not exist before the directory does. If another process was faster, its layer is the same.
        with contextlib.suppress(OSError):
            content.rename(self._root / record.layer_id)
        write_durably(self._record_path(record.layer_id), json.dumps(asdict(record), indent=1))

    def _note_use(self, layer_id: str) -> None:
        now = self._clock()
        if self._used_at.get(layer_id, 0.0) < now - NOTED_EVERY_S:
            with contextlib.suppress(FileNotFoundError):  # another process removes it: whoever asked finds it gone
                os.utime(self._record_path(layer_id), (now, now))
        self._used_at[layer_id] = now

    def _record_path(self, layer_id: str) -> Path:
        return self._root / f"{layer_id}.json"


def owner_lives(name: str) -> bool:
    """Whether another process that lives is making this directory, by its name."""
    pid = name.removeprefix(MAKING_PREFIX).split("-")[0]
    return pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()


def directory_size_bytes(root: Path) -> int:
    """Bytes that the directory takes on disk, hard links counted once. Raises InvalidInput for one that nobody could handle."""
    seen: set[tuple[int, int]] = set()
    total = 0
    stack = [(str(root), 0)]
    while stack:
        directory, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise InvalidInput(f"The step leaves more than {MAX_DEPTH} directories in one another. Remove them in the same step.")
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    stack.append((entry.path, depth + 1))
                elif (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
    return total


async def flush(path: Path) -> None:
    """Put the file system that holds `path` on disk: a rename alone can survive a power loss that its content does not."""
    await programs.run(["sync", "--file-system", str(path)])


def write_durably(path: Path, text: str) -> None:
    """Write the whole file or none of it, on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # several may write the same at once
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(path.parent)  # and with it whatever was renamed there before
