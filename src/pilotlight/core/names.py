"""What people may call things: the rules of the official client, held here for whoever does not use it."""

import re

from pilotlight.core.errors import InvalidInput

_OBJECT = re.compile(r"[a-zA-Z0-9._-]{1,64}")
_ENVIRONMENT = re.compile(r"(?![eE][nN]-)[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")  # "en-" is how ids begin


def check_object_name(name: str, kind: str) -> str:
    """The name of a deployed object, if it may be one; raises InvalidInput."""
    if not _OBJECT.fullmatch(name) or re.fullmatch(r"[a-z]{2}-[a-zA-Z0-9]{22}", name):
        raise InvalidInput(
            f"{name!r} can't be the name of a {kind}: 1 to 64 letters, digits, dashes, periods and underscores, and not like an id."
        )
    return name


def check_environment_name(name: str) -> str:
    """The name of an environment, if it may be one; raises InvalidInput."""
    if not _ENVIRONMENT.fullmatch(name):
        raise InvalidInput(
            f"{name!r} can't be the name of an environment: 1 to 64 letters, digits, dashes and underscores, "
            "beginning with a letter or digit, and not with 'en-'."
        )
    return name
