"""Kinds of GPUs: what programs ask for, what machines report, and which of the latter serves the former.

Kinds are upstream's words in capitals: T4, L4, A10G, L40S, A100-40GB, A100-80GB, H100, H200, B200. What upstream has no word for is
called by its product name ("RTX-4090"), and can be asked for by it. A slice of a device (MIG) is its own kind: "H100-MIG-1G.10GB".
"""

import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pilotlight.core.errors import InvalidInput

ANY = "ANY"
MOST_OF_ONE_CONTAINER = 8
BY_POWER = ("T4", "L4", "A10G", "L40S", "A100-40GB", "RTX-PRO-6000", "A100-80GB", "H100", "H200", "B200", "B300")
# What is asked for by one name may be served by another: the same, or a better one, as upstream has it.
_SERVED_BY = {
    "A10": ("A10G",),
    "A100": ("A100-40GB", "A100-80GB"),
    "A100-40GB": ("A100-40GB", "A100-80GB"),
    "H100": ("H100", "H200"),
    "B200+": ("B200", "B300"),
}
_FULL_NAMES = {"A10": "A10G", "A100": "A100-40GB"}  # of kinds that operators may call by less
_KIND = re.compile(r"[A-Z0-9][A-Z0-9.-]*")
NO_GPUS = "none"  # a declared inventory of nothing
MOST_SHARES = 64
_DECLARED = uuid.UUID("5b0f9b1e-8f0c-4c0e-9c1b-6d9f0a4a6d11")  # the name space of uuids that we make up
# Of one device, in the vendor's gigabytes, for those that are declared and not there to be asked.
_MEMORY_GB = {
    **{"RTX-PRO-6000": 96, "T4": 16, "L4": 24, "A10G": 24, "L40S": 48, "A100-40GB": 40, "A100-80GB": 80},
    **{"H100": 80, "H200": 141, "B200": 180, "B300": 288},
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
    if words[:3] == ["RTX", "PRO", "6000"]:
        return "RTX-PRO-6000"  # of all its editions
    return words[0] if words[0] in BY_POWER else "-".join(words)


def slice_kind(parent_kind: str, name: str) -> str:
    """What a slice (MIG) of a device is called: "A100-40GB" and "NVIDIA A100-SXM4-40GB MIG 1g.5gb" → "A100-40GB-MIG-1G.5GB"."""
    profile = name.upper().rpartition("MIG ")[2].strip().replace(" ", "-")
    return f"{parent_kind}-MIG-{profile}"


def parse_inventory(text: str) -> dict[str, int]:
    """Numbers by kind of "A10G:2,H100:8", as an operator writes it; "none" is an inventory of nothing. Raises InvalidInput."""
    counts: dict[str, int] = {}
    if text.strip().lower() == NO_GPUS:
        return counts
    for part in filter(None, (part.strip() for part in text.split(","))):
        written, _, number = part.partition(":")
        kind = _kind(written)
        if not kind or (number and not number.isdecimal()) or int(number or 1) < 1:
            raise InvalidInput(f"{part!r} is no number of GPUs. Write KIND:NUMBER, several with commas: A10G:2,H100:8")
        counts[kind] = counts.get(kind, 0) + int(number or 1)
    return counts


def parse_shares(text: str) -> dict[str, int]:
    """How many containers share a device of a kind, of "A10G=4,L4=2". Raises InvalidInput."""
    shares: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        written, _, number = part.partition("=")
        kind = _kind(written)
        if not kind or not number.strip().isdecimal() or not 1 <= int(number) <= MOST_SHARES:
            raise InvalidInput(
                f"{part!r} does not say how many containers share a GPU. Write KIND=NUMBER, from 1 to {MOST_SHARES}: A10G=4"
            )
        shares[kind] = int(number)
    return shares


def _kind(written: str) -> str:
    """A kind as an operator writes it; empty for what is none, such as "any"."""
    kind = written.strip().upper()
    return _FULL_NAMES.get(kind, kind) if _KIND.fullmatch(kind) and kind != ANY else ""


def declared_devices(inventory: Mapping[str, int], shares: Mapping[str, int], node_id: str) -> list[Device]:
    """Devices that are there by declaration: the same uuids for the same node at each start."""
    return [
        Device(
            f"GPU-{uuid.uuid5(_DECLARED, f'{node_id} {kind} {index}')}",
            kind,
            round(_MEMORY_GB.get(kind, 0) * _MIB_PER_GB),
            shares.get(kind, 1),
        )
        for kind, count in inventory.items()
        for index in range(count)
    ]


def choose(devices: Iterable[tuple[Device, int]], kind: str, count: int) -> tuple[str, ...]:
    """The uuids of so many devices of a kind with a free share, given (device, shares taken); empty where there are too few.

    Those that are shared already come first, so that whole devices stay free for who needs several.
    """
    free = [
        (-taken, number, device.uuid)
        for number, (device, taken) in enumerate(devices)
        if device.kind == kind and taken < device.shares
    ]
    return tuple(uuid for _, _, uuid in sorted(free)[:count]) if len(free) >= count else ()


@dataclass(frozen=True, slots=True)
class Holder:
    """A container that has GPUs. `idle_s`: for how long it has had nothing to do and is not to be kept warm; None: it works.

    `is_leaving`: it has been told to end, so what it has will be free soon.
    """

    task_id: str
    node_id: str
    kind: str
    count: int
    idle_s: float | None
    is_leaving: bool = False


def to_end_for(wishes: Sequence[GpuWish], free: Mapping[str, Mapping[str, int]], holders: Collection[Holder]) -> list[str]:
    """Idle containers to end so that one that waits gets GPUs: as few as will do, those that were idle longest first.

    `free`: by node, free devices by kind, with an entry (maybe 0) for each kind there is. Nothing where a wish can be met from what
    is free or is about to be, or where even all idle ones would not do.
    """
    plans: list[list[Holder]] = []
    for wish in wishes:
        for node_id, by_kind in free.items():
            for kind in wish.kinds(by_kind):
                here = [holder for holder in holders if (holder.node_id, holder.kind) == (node_id, kind)]
                missing = wish.count - by_kind[kind] - sum(holder.count for holder in here if holder.is_leaving)
                idle = sorted((holder for holder in here if holder.idle_s is not None), key=lambda holder: -(holder.idle_s or 0.0))
                if missing <= 0:
                    return []
                if sum(holder.count for holder in idle) >= missing:
                    plans.append(_first_of(idle, missing))
        if plans:
            break
    return [holder.task_id for holder in min(plans, key=len)] if plans else []


def _first_of(holders: Sequence[Holder], missing: int) -> list[Holder]:
    chosen: list[Holder] = []
    for holder in holders:
        if missing <= 0:
            break
        chosen.append(holder)
        missing -= holder.count
    return chosen
