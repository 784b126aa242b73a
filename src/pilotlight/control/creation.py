"""What a request wants of an object that may or may not be there."""

from enum import Enum, auto


class Creation(Enum):
    """How to get or create a named object."""

    LOOK_UP = auto()
    IF_MISSING = auto()
    FAIL_IF_EXISTS = auto()
    OVERWRITE = auto()
    ANONYMOUS = auto()  # without a name, for one app or one client
