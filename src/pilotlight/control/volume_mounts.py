"""Volumes as functions and images ask to see them: checked when they are defined, looked up when a container starts."""

from collections.abc import Sequence

from modal_proto import api_pb2

from pilotlight.core import errors, ids
from pilotlight.core.volumes import VolumeMount, check_mounts, parse_path
from pilotlight.store import volumes as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2


def volume_of(file_system_id: str) -> str:
    """The volume that holds the files of a network file system; raises InvalidInput for what is no id of one."""
    if not ids.has_prefix(file_system_id, ids.NETWORK_FILE_SYSTEM):
        raise errors.InvalidInput(f"{file_system_id!r} is no id of a network file system: those start with sv-.")
    return f"{ids.VOLUME}-{file_system_id.partition('-')[2]}"


def mounts_of(function: api_pb2.Function) -> list[api_pb2.VolumeMount]:
    """The volumes of a function, and those behind its network file systems; raises InvalidInput."""
    older = (
        api_pb2.VolumeMount(volume_id=volume_of(mount.shared_volume_id), mount_path=mount.mount_path)
        for mount in function.shared_volume_mounts
    )
    return [*function.volume_mounts, *older]


def checked_mounts(wanted: Sequence[api_pb2.VolumeMount], owner: str) -> list[VolumeMount]:
    """What one container is to see; raises InvalidInput. `owner` is who asks, for people: "Function 'f'"."""
    mounts = [VolumeMount(mount.volume_id, mount.mount_path, mount.read_only, parse_path(mount.sub_path)) for mount in wanted]
    check_mounts(mounts, owner)
    return mounts


async def metadata_of(database: Database, volume_id: str) -> api_pb2.VolumeMetadata:
    """What a container is told of a volume that its program knows; empty where it was deleted."""
    found = await database.read(lambda connection: store.facts(connection, volume_id))
    if found is None:
        return api_pb2.VolumeMetadata()
    creation = api_pb2.CreationInfo(created_at=found.created_at)
    return api_pb2.VolumeMetadata(version=found.version, name=found.name or "", creation_info=creation)


async def look_up_mounts(database: Database, wanted: Sequence[api_pb2.VolumeMount], owner: str) -> list[platform_pb2.VolumeMount]:
    """For the node; raises NotFound for a volume that was deleted."""
    if not wanted:
        return []
    mounts = checked_mounts(wanted, owner)
    present = await database.read(lambda connection: store.versions(connection, [mount.volume_id for mount in mounts]))
    for mount in mounts:
        if mount.volume_id not in present:
            raise errors.NotFound(
                f"{owner} mounts volume {mount.volume_id} at {mount.mount_path!r}, which was deleted. Deploy or run the app again."
            )
    return [
        platform_pb2.VolumeMount(
            volume_id=mount.volume_id, mount_path=mount.mount_path, read_only=mount.read_only, sub_path=mount.sub_path
        )
        for mount in mounts
    ]
