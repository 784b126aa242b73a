"""Volumes: names and versions in the database, files in directories. What is acknowledged is on disk.

The files are everybody's at any time: containers have them mounted, clients send and fetch them through here. What this process
does to them runs on threads of its own, so that a slow disk holds up nothing else.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pilotlight.control.creation import Creation
from pilotlight.control.environments import Environment, Environments
from pilotlight.control.named import NamedObject, NamedObjects
from pilotlight.core import errors, ids
from pilotlight.core.volumes import V1, Parts
from pilotlight.store import named
from pilotlight.store import volumes as store
from pilotlight.store.database import Database
from pilotlight.volumes import copying, removal, walking
from pilotlight.volumes.limits import check_room
from pilotlight.volumes.places import Places

T = TypeVar("T")
Batch = list[walking.Entry]

THREADS = 8
NOT_MOUNTED = "is not mounted in this container. Only containers that have a volume mounted can commit or reload it."


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume as clients see it; `version` is 1 or 2."""

    object: NamedObject
    version: int


class Volumes:
    """Use cases of volumes. `objects` gives them their names; `mounted_in` says which volumes a container has."""

    def __init__(
        self, *, database: Database, environments: Environments, directory: Path, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._environments = environments
        self.places = Places(directory)
        self.places.open()
        self._threads = ThreadPoolExecutor(THREADS, "volumes")
        self.objects = NamedObjects(
            database=database, environments=environments, kind=named.VOLUMES, prefix=ids.VOLUME, word="volume", now=now
        )
        self.mounted_in: Callable[[str], Collection[str]] = lambda task_id: ()
        environments.before_delete.append(self._delete_all_in)

    def close(self) -> None:
        """Wait for what threads are doing."""
        self._threads.shutdown()

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Do what touches files."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # ---- volumes ----

    async def get_or_create(
        self, environment_name: str, name: str, creation: Creation, version: int, request_key: str
    ) -> VolumeRecord:
        """The volume; a new one has this file system version (0: the default). Safe to repeat under one key."""
        values = {"version": version or V1, "commits": 0}
        found, _ = await self.objects.get_or_create(environment_name, name, creation, request_key, values)
        await self.on_thread(partial(self.places.create, found.object_id))
        return await self._record(found)

    async def get(self, volume_id: str) -> VolumeRecord:
        """One volume by its id; raises NotFound."""
        return await self._record(await self.objects.get(volume_id))

    async def list(
        self, environment_name: str, created_before: float = 0, limit: int = 0
    ) -> tuple[Environment, Sequence[VolumeRecord]]:
        """Named volumes, newest first."""
        environment, found = await self.objects.list(environment_name, created_before, limit)
        versions = await self._versions([one.object_id for one in found])
        return environment, [VolumeRecord(one, versions.get(one.object_id, V1)) for one in found]

    async def delete(self, volume_ids: Sequence[str]) -> None:
        """Delete volumes with all files. Containers keep what they have open; those that are gone are no error."""
        for volume_id in volume_ids:
            await self.on_thread(partial(self.places.remove, volume_id))
        await self.objects.delete(volume_ids)

    async def collect(self) -> int:
        """Remove ephemeral volumes whose owner is gone, uploads that never ended, and what was deleted; how many volumes."""
        abandoned = await self.objects.abandoned()
        await self.delete(abandoned)
        await self.on_thread(partial(removal.remove_abandoned, self.places))
        await self.on_thread(partial(removal.empty_trash, self.places))
        return len(abandoned)

    async def path(self, environment_name: str, name: str) -> Path:
        """Where the files of a volume are on this machine; raises NotFound."""
        found, _ = await self.objects.get_or_create(environment_name, name, Creation.LOOK_UP, "")
        return self.places.tree(found.object_id)

    # ---- what containers ask ----

    async def commit(self, volume_id: str, task_id: str | None) -> None:
        """A container has synced its changes: count a new version. Raises NotFound, WrongState."""
        await self._require_mounted(volume_id, task_id)
        if await self.version_of(volume_id) == V1:
            tree = self.places.tree(volume_id)
            await self.on_thread(partial(check_room, tree, V1, ()))
        await self._database.write(lambda connection: store.add_commit(connection, volume_id))

    async def reload(self, volume_id: str, task_id: str | None) -> None:
        """A container wants the newest state, which it always sees. Raises NotFound, WrongState."""
        await self._require_mounted(volume_id, task_id)

    async def _require_mounted(self, volume_id: str, task_id: str | None) -> None:
        await self.objects.require(volume_id)
        if task_id is None or volume_id not in self.mounted_in(task_id):
            raise errors.WrongState(f"Volume {volume_id} {NOT_MOUNTED}")

    # ---- files ----

    async def entries(self, volume_id: str, parts: Parts, *, recursive: bool, limit: int = 0) -> AsyncIterator[Batch]:
        """What is in a directory, in batches; raises NotFound. A limit of 0 means none."""
        await self.objects.require(volume_id)
        batches = walking.entries(self.places.tree(volume_id), parts, recursive=recursive)
        left = limit or float("inf")
        while left > 0 and (batch := await self.on_thread(partial(_next, batches))):
            yield batch[: int(left)] if left < len(batch) else batch
            left -= len(batch)

    async def remove(self, volume_id: str, parts: Parts, *, recursive: bool, is_repeated: bool = False) -> None:
        """Remove a file or a directory; raises NotFound, unless this very request was made before."""
        await self.objects.require(volume_id)
        try:
            await self.on_thread(partial(removal.remove, self.places, volume_id, parts, recursive=recursive))
        except errors.NotFound:
            if not is_repeated:
                raise

    async def copy(self, volume_id: str, sources: Sequence[Parts], target: Parts, *, into_directory: bool, recursive: bool) -> None:
        """Copy within the volume; raises NotFound, InvalidInput, OverLimit. Safe to repeat."""
        version = await self.version_of(volume_id)
        tree = self.places.tree(volume_id)

        def work() -> None:
            check_room(tree, version, (), more=lambda limit: copying.count(tree, sources, limit))
            copying.copy(self.places, volume_id, sources, target, into_directory=into_directory, recursive=recursive)

        await self.on_thread(work)

    async def version_of(self, volume_id: str) -> int:
        """The file system version of a volume; raises NotFound."""
        await self.objects.require(volume_id)
        return (await self._versions([volume_id])).get(volume_id, V1)

    async def inode_and_size(self, volume_id: str, parts: Parts) -> tuple[int, int]:
        """Of a file that can be read; raises NotFound, InvalidInput."""
        await self.objects.require(volume_id)

        def look() -> tuple[int, int]:
            with walking.file(self.places.tree(volume_id), parts) as descriptor:
                found = os.fstat(descriptor)
                return found.st_ino, found.st_size

        return await self.on_thread(look)

    # ---- within ----

    async def _versions(self, volume_ids: Sequence[str]) -> dict[str, int]:
        return dict(await self._database.read(lambda connection: store.versions(connection, volume_ids)))

    async def _record(self, found: NamedObject) -> VolumeRecord:
        return VolumeRecord(found, (await self._versions([found.object_id])).get(found.object_id, V1))

    async def _delete_all_in(self, environment_id: str) -> None:
        await self.delete(await self.objects.ids_in(environment_id))


def _next(batches: Iterator[Batch]) -> Batch:
    return next(batches, [])
