"""What may be thrown away: decided from a listing of what there is, and from what still refers to it.

Nothing is garbage that was used lately, whoever refers to it: a client sends a blob before the call that names it, and looks up a
mount before the function that has it.
"""

import re
from collections import deque
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field

from pilotlight.core import ids

KINDS = (ids.BLOB, ids.IMAGE, ids.MOUNT, ids.SECRET)
_REFERENCE = re.compile(rf"(?:{'|'.join(KINDS)})-[0-9A-Za-z]{{{ids.BODY_LENGTH}}}|[0-9a-f]{{64}}".encode())


@dataclass(frozen=True, slots=True)
class Held:
    """Something that takes space. `used_at`: seconds since the epoch, of its last use or its making."""

    key: str
    size_bytes: int
    used_at: float


@dataclass(slots=True)
class Verdict:
    """What goes, and how much stays."""

    garbage: list[Held] = field(default_factory=list[Held])
    kept: int = 0
    kept_bytes: int = 0

    @property
    def garbage_bytes(self) -> int:
        return sum(held.size_bytes for held in self.garbage)


def sort_out(held: Iterable[Held], wanted: Container[str], used_before: float) -> Verdict:
    """Garbage is what nobody wants and nobody used since that moment."""
    verdict = Verdict()
    for one in held:
        if one.key in wanted or one.used_at >= used_before:
            verdict.kept += 1
            verdict.kept_bytes += one.size_bytes
        else:
            verdict.garbage.append(one)
    return verdict


def references(data: bytes) -> set[str]:
    """All ids and SHA-256 in hex that occur in bytes, whatever format they are: rather one too many than one too few."""
    return {match.decode() for match in _REFERENCE.findall(data)}


def reachable(roots: Iterable[str], refers: Mapping[str, Collection[str]]) -> set[str]:
    """The roots, what they refer to, what that refers to, and so on."""
    found = set(roots)
    waiting = deque(found)
    while waiting:
        new = set(refers.get(waiting.popleft(), ())) - found
        found |= new
        waiting.extend(new)
    return found
