"""From a volume that a container asks for to what its runtime binds."""

from pilotlight.core.containers import Bind
from pilotlight.volumes.places import Places
from pilotlight.wire import platform_pb2


def bind_of(places: Places, mount: platform_pb2.VolumeMount, target: str) -> Bind:
    """The volume, or the directory of it that was asked for, at a path of the container; raises InvalidInput."""
    tree = places.tree(mount.volume_id)
    return Bind(tree, target, mount.read_only, tuple(mount.sub_path), needs_ids=not mount.read_only)
