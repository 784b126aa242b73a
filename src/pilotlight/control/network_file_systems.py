"""Network file systems of older programs: names of their own, each over a volume of version 2 without a name that holds the files.

Whatever volumes promise of files holds for these too: a file that was sent is whole, and on disk before it is acknowledged.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

from sqlalchemy import Connection

from pilotlight.control.creation import Creation
from pilotlight.control.environments import Environment, Environments
from pilotlight.control.mounts import Mounts
from pilotlight.control.named import NamedObject, NamedObjects
from pilotlight.control.volume_files import Content, ContentFile, VolumeFiles
from pilotlight.control.volume_mounts import volume_of
from pilotlight.control.volumes import Batch, Volumes
from pilotlight.core import ids
from pilotlight.core.volumes import V2, Parts
from pilotlight.store import named
from pilotlight.store.database import Database

FILE_MODE = 0o644


class NetworkFileSystems:
    """Use cases of network file systems. `objects` gives them their names."""

    def __init__(
        self,
        *,
        database: Database,
        environments: Environments,
        volumes: Volumes,
        files: VolumeFiles,
        mounts: Mounts,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._volumes = volumes
        self._files = files
        self._mounts = mounts
        self._now = now
        self.objects = NamedObjects(
            database=database,
            environments=environments,
            kind=named.NETWORK_FILE_SYSTEMS,
            prefix=ids.NETWORK_FILE_SYSTEM,
            word="network file system",
            now=now,
        )
        environments.before_delete.append(self._delete_all_in)

    async def get_or_create(self, environment_name: str, name: str, creation: Creation, request_key: str) -> NamedObject:
        """The network file system; see NamedObjects. Safe to repeat under one key."""
        found, _ = await self.objects.get_or_create(environment_name, name, creation, request_key)
        volume_id, at = volume_of(found.object_id), self._now()

        def work(connection: Connection) -> None:
            named.add(
                connection,
                named.VOLUMES,
                volume_id,
                environment_id=found.environment_id,
                name=None,
                version=V2,
                commits=0,
                created_at=at,
                heartbeat_at=None,
            )

        await self._database.write(work)
        await self._volumes.on_thread(lambda: self._volumes.places.create(volume_id))
        return found

    async def list(self, environment_name: str) -> tuple[Environment, Sequence[NamedObject]]:
        """Those with a name, newest first."""
        return await self.objects.list(environment_name)

    async def delete(self, file_system_ids: Sequence[str]) -> None:
        """Delete network file systems with all files; those that are gone are no error."""
        await self._volumes.delete([volume_of(one) for one in file_system_ids])
        await self.objects.delete(file_system_ids)

    async def put_data(self, file_system_id: str, parts: Parts, data: bytes) -> None:
        """Put a small file in place; raises NotFound, InvalidInput. Safe to repeat."""
        await self.objects.require(file_system_id)
        sha256 = hashlib.sha256(data).hexdigest()
        await self._mounts.put_file(sha256, data)
        await self._put(file_system_id, parts, sha256)

    async def put_blob(self, file_system_id: str, parts: Parts, sha256: str, blob_id: str) -> None:
        """Put a file in place whose content was sent as a blob; raises NotFound, InvalidInput. Safe to repeat."""
        await self.objects.require(file_system_id)
        await self._mounts.put_file_from_blob(sha256, blob_id)
        await self._put(file_system_id, parts, sha256)

    async def read(self, file_system_id: str, parts: Parts) -> Content:
        """A whole file; raises NotFound."""
        await self.objects.require(file_system_id)
        return await self._files.read(volume_of(file_system_id), parts, 0, 0)

    async def entries(self, file_system_id: str, parts: Parts) -> AsyncIterator[Batch]:
        """What is in a directory, in batches; raises NotFound."""
        await self.objects.require(file_system_id)
        async for batch in self._volumes.entries(volume_of(file_system_id), parts, recursive=False):
            yield batch

    async def remove(self, file_system_id: str, parts: Parts, *, recursive: bool, is_repeated: bool) -> None:
        """Remove a file or a directory; raises NotFound."""
        await self.objects.require(file_system_id)
        await self._volumes.remove(volume_of(file_system_id), parts, recursive=recursive, is_repeated=is_repeated)

    async def collect(self) -> int:
        """Remove ephemeral ones whose owner is gone; how many."""
        abandoned = await self.objects.abandoned()
        if abandoned:
            await self.delete(abandoned)
        return len(abandoned)

    async def _put(self, file_system_id: str, parts: Parts, sha256: str) -> None:
        file = ContentFile(parts, FILE_MODE, sha256)
        await self._files.put_contents(volume_of(file_system_id), [file], overwrite=True, request_key="", is_repeated=False)

    async def _delete_all_in(self, environment_id: str) -> None:
        await self.delete(await self.objects.ids_in(environment_id))
