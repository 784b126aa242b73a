"""How much memory a node has for containers: what it offers to placement, and what the kernel lets all of them have together."""

import contextlib
import os
from pathlib import Path

from pilotlight.config import Settings
from pilotlight.node.cgroups import Place, own_places

RESERVE_SHARE = 0.05  # of the machine, for the system and the platform's own processes
RESERVE_MIB = 512  # at least


def offered_mib(settings: Settings) -> int:
    """What containers may use together, in MiB: never all, or one without a limit could take the machine down with it."""
    return bounded_mib(settings.memory_mib, visible_mib(own_places()))


def bounded_mib(wished_mib: int, visible: int) -> int:
    """What was wished (0: as much as possible), less what does not fit beside the reserve."""
    most = max(visible // 2, visible - max(RESERVE_MIB, int(visible * RESERVE_SHARE)))
    return min(wished_mib, most) if wished_mib else most


def visible_mib(places: dict[str, Place]) -> int:
    """Memory of the machine, or of the group that we live in where that has less."""
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    place = places.get("memory")
    if place is not None:
        file = place.base / ("memory.max" if place.version == 2 else "memory.limit_in_bytes")
        with contextlib.suppress(FileNotFoundError, ValueError):  # the root has none; "max" is no number
            total_bytes = min(total_bytes, int(Path(file).read_text()))
    return total_bytes >> 20
