"""The protocol's ObjectCreationType in our own words."""

from modal_proto import api_pb2

from pilotlight.control.creation import Creation
from pilotlight.core.errors import InvalidInput

_CREATIONS: dict[int, Creation] = {
    api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED: Creation.LOOK_UP,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING: Creation.IF_MISSING,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS: Creation.FAIL_IF_EXISTS,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS: Creation.OVERWRITE,
    api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP: Creation.ANONYMOUS,
    api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL: Creation.ANONYMOUS,
}


def creation_of(object_creation_type: int) -> Creation:
    """What a request wants; raises InvalidInput for a type that a newer client may have."""
    if object_creation_type not in _CREATIONS:
        raise InvalidInput(
            f"Object creation type {object_creation_type} is unknown to this platform, which may be older than the client."
        )
    return _CREATIONS[object_creation_type]
