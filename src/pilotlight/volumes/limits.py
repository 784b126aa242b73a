"""How many files a volume may hold: version 1 in all, version 2 in each directory."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pilotlight.core import errors
from pilotlight.core.volumes import MAX_DIRECTORY_ENTRIES, MAX_V1_FILES, V1, Parts, shown
from pilotlight.volumes import walking


def check_room(tree: Path, version: int, new: Sequence[Parts], *, more: Callable[[int], int] = lambda limit: 0) -> None:
    """Whether these files may be added; raises OverLimit. `more(limit)` counts others, no further than just beyond the limit."""
    if version == V1:
        present = walking.count(tree, MAX_V1_FILES)
        added = sum(walking.find(tree, parts) is None for parts in new) if present + len(new) > MAX_V1_FILES else 0
        if present + added + more(MAX_V1_FILES) > MAX_V1_FILES:
            raise errors.OverLimit(
                f"A volume of version 1 holds {MAX_V1_FILES} files and directories at most. Remove some, or use version 2."
            )
        return
    for directory, count in Counter(parts[:-1] for parts in new).items():
        if count + _entries_in(tree, directory) > MAX_DIRECTORY_ENTRIES:
            raise errors.OverLimit(
                f"The directory {shown(directory)!r} would have more than {MAX_DIRECTORY_ENTRIES} entries. Use several directories."
            )


def _entries_in(tree: Path, directory: Parts) -> int:
    try:
        descriptor = walking.open_directory(tree, directory)
    except (errors.NotFound, errors.InvalidInput):
        return 0  # not there yet, or no directory, which the upload itself will say
    try:
        with os.scandir(descriptor) as scan:
            return sum(1 for _ in scan)
    finally:
        os.close(descriptor)
