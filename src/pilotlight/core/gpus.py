"""Kinds of GPUs: what programs ask for, what machines report, and which of the latter serves the former.

Kinds are upstream's words in capitals: T4, L4, A10G, L40S, A100-40GB, A100-80GB, H100, H200, B200. What upstream has no word for is
called by its product name ("RTX-4090"), and can be asked for by it. A slice of a device (MIG) is its own kind: "H100-MIG-1G.10GB".
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pilotlight.core.errors import InvalidInput

ANY = "ANY"
MOST_OF_ONE_CONTAINER = 8
BY_POWER = ("T4", "L4", "A10G", "L40S", "A100-40GB", "A100-80GB", "H100", "H200", "B200", "B300")
# What is asked for by one name may be served by another: the same, or a better one, as upstream has it.
_SERVED_BY = {
    "A10": ("A10G",),
    "A100": ("A100-40GB", "A100-80GB"),
    "A100-40GB": ("A100-40GB", "A100-80GB"),
    "H100": ("H100", "H200"),
    "B200+": ("B200", "B300"),
}
_MIB_PER_GB = 953.67  # of the vendor's gigabytes
_MAKERS_WORDS = re.compile(r"\b(NVIDIA|GEFORCE|TESLA|QUADRO|GRAPHICS|GENERATION|ADA|LAPTOP|GPU|PCIE|SXM\d?|HBM\d?E?|NVL|\d+GB)\b")


@dataclass(frozen=True, slots=True)
class GpuWish:
    """What one container asks for: so many GPUs of a kind, all of one node."""

    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.count}×{self.kind}"

    def kinds(self, there: Iterable[str]) -> tuple[str, ...]:
        """Which of the kinds that there are may serve it, the one that is asked for first."""
        have = set(there)
        if self.kind == ANY:
            ranked = {kind: rank for rank, kind in enumerate(BY_POWER)}
            return tuple(sorted(have, key=lambda kind: (ranked.get(kind, len(ranked)), kind)))
        wanted = self.kind.removesuffix("!")
        served_by = (wanted,) if self.kind.endswith("!") else _SERVED_BY.get(wanted, (wanted,))
        return tuple(kind for kind in served_by if kind in have)


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU of a node, or a slice of one. `shares`: how many containers it serves at a time."""

    uuid: str
    kind: str
    memory_mib: int
    shares: int = 1


def wish(gpu_type: str, count: int) -> GpuWish | None:
    """What a definition asks for; None for no GPU. Raises InvalidInput for a number of them that nobody can give."""
    if not gpu_type and not count:
        return None
    if not 1 <= count <= MOST_OF_ONE_CONTAINER:
        raise InvalidInput(
            f"gpu={gpu_type or ANY}:{count} asks for {count} GPUs; a container has from 1 to {MOST_OF_ONE_CONTAINER} of them."
        )
    return GpuWish(gpu_type.strip().upper() or ANY, count)


def kind_of(product: str, memory_mib: int) -> str:
    """Upstream's word for a product as its driver names it: "NVIDIA A100-SXM4-80GB" → "A100-80GB", "NVIDIA A10" → "A10G"."""
    name = product.upper().replace("-", " ")
    words = _MAKERS_WORDS.sub(" ", name).split()
    if not words:
        return "GPU"
    if words[0] == "A100":
        return "A100-80GB" if memory_mib > 60 * _MIB_PER_GB else "A100-40GB"
    if words[0] == "A10":
        return "A10G"
    return words[0] if words[0] in BY_POWER else "-".join(words)


def parse_inventory(text: str) -> dict[str, int]:
    """Numbers by kind of "A10G:2,H100:8", as an operator writes it. Raises InvalidInput."""
    counts: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, number = part.partition(":")
        if not kind or (number and not number.isdecimal()) or int(number or 1) < 1:
            raise InvalidInput(f"{part!r} is no number of GPUs. Write KIND:NUMBER, several with commas: A10G:2,H100:8")
        counts[kind.strip().upper()] = counts.get(kind.strip().upper(), 0) + int(number or 1)
    return counts
