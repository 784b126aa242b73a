"""Which addresses a platform's containers get: one of a hundred slots, never one that the machine or another platform uses.

The choice is kept in the state, so that a restart finds the same addresses; a lock of the machine keeps two platforms that start
at once apart, and the settings of running platforms are the record of what is taken.
"""

import ipaddress
import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path

from pilotlight.config import RUN_ROOT, SETTINGS_FILE, Settings
from pilotlight.core.errors import OverLimit

SLOTS = 100
LOCK_PATH = RUN_ROOT / "pilotlight-slots.lock"
KEPT = "network_slot"

Network = ipaddress.IPv4Network


def networks_of(settings: Settings, slot: int) -> tuple[Network, Network]:
    """The containers' subnet and the host's link-local address in a slot."""
    placed = settings.model_copy(update={"network_slot": slot})
    return Network(placed.container_subnet), Network(placed.link_local_address)


def choose(settings: Settings, kept: int | None, present: Iterable[Network], taken: Iterable[int]) -> int:
    """The slot to use: the kept one if it is still free, else the lowest free one. Raises OverLimit.

    A slot is not free when another platform has it or the machine routes exactly it or a part of it. A broader route (a VPN's
    10.0.0.0/8) only makes a slot second choice: ours is more specific and wins.
    """
    routes, others = list(present), set(taken)

    def is_free(slot: int) -> bool:
        return slot not in others and not any(r.subnet_of(n) for r in routes for n in networks_of(settings, slot))

    def is_covered(slot: int) -> bool:
        return any(r.overlaps(n) for r in routes for n in networks_of(settings, slot))

    candidates = [slot for slot in range(SLOTS) if is_free(slot)]
    if kept in candidates:
        return kept
    if not candidates:
        raise OverLimit(
            f"all {SLOTS} network slots (10.128.0.0/16 and up) are in use on this machine; choose one: PILOTLIGHT_NETWORK_SLOT"
        )
    return next((slot for slot in candidates if not is_covered(slot)), candidates[0])


def parse_routes(table: str, ignore_interface: str) -> list[Network]:
    """The destinations of /proc/net/route, less the default route and those of one interface."""
    networks: list[Network] = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        destination, mask = (int.from_bytes(bytes.fromhex(fields[i]), "little") for i in (1, 7))
        if fields[0] != ignore_interface and mask:
            networks.append(Network((destination, mask.bit_count())))
    return networks


def _slots_of_others(settings: Settings) -> Iterator[int]:
    for path in RUN_ROOT.glob(f"pilotlight-*/{SETTINGS_FILE}"):
        if path.parent != settings.run_dir:
            with suppress(OSError, ValueError, KeyError):  # going away right now, or not ours
                yield json.loads(path.read_text())["network_slot"]


def _kept(settings: Settings) -> int | None:
    with suppress(OSError, ValueError):
        return int((settings.state / KEPT).read_text())
    return None


def with_kept(settings: Settings) -> Settings:
    """Settings with the slot that this platform last had (the first one, if none), for cleaning up after it."""
    if settings.network_slot >= 0:
        return settings
    return settings.model_copy(update={"network_slot": _kept(settings) or 0})


@contextmanager
def reserved(settings: Settings) -> Generator[Settings]:
    """Settings with their slot. No other platform can choose until the block ends: save the settings within it."""
    with LOCK_PATH.open("w") as lock:
        flock(lock, LOCK_EX)
        if settings.network_slot >= 0:
            yield settings
            return
        present = parse_routes(Path("/proc/net/route").read_text(), settings.bridge_name)
        slot = choose(settings, _kept(settings), present, _slots_of_others(settings))
        (settings.state / KEPT).write_text(f"{slot}\n")
        yield settings.model_copy(update={"network_slot": slot})
