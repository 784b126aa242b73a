"""The life of one image."""

from enum import Enum


class ImageState(Enum):
    WAITING = "waiting"  # no node has begun to build it
    BUILDING = "building"
    BUILT = "built"
    FAILED = "failed"
