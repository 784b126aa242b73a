"""Versions of the official clients, as far as what they can do depends on them. An unreadable version counts as the newest."""

import re

_LEADING = re.compile(r"(\d+)\.(\d+)")


def is_older(version: str, than: tuple[int, int]) -> bool:
    """Whether a client's version ("1.6.4", "1.2.dev3") is below this major and minor one; an unreadable one is not."""
    match = _LEADING.match(version)
    return match is not None and (int(match[1]), int(match[2])) < than
