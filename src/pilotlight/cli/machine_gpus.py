"""The facts about this machine's GPUs that `doctor` judges. Looking changes nothing."""

import os
import shutil
import stat
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pilotlight.config import Settings
from pilotlight.node import nvml
from pilotlight.node.cdi import Specs
from pilotlight.node.gpus import HOOK, MANY_PATHS

NVIDIA, DISPLAY_CLASSES = "0x10de", ("0x0300", "0x0302")  # of PCI
EVERYBODY = stat.S_IROTH | stat.S_IWOTH


@dataclass(frozen=True)
class GpuFacts:
    """What there is of NVIDIA's. `found`: numbers by kind as the driver reports them; paths and uuids are for people."""

    declared: str = ""  # the operator's inventory
    cards: int = 0  # on the PCI bus
    driver: str = ""  # version of the kernel's module
    found: str = ""  # "2×A10G"
    driver_problem: str = ""  # why its library gives no answer, where that is not for want of it
    unusable: tuple[str, ...] = ()  # numbers of devices that do not answer, and why
    unnamed: tuple[str, ...] = ()  # uuids that no CDI specification names
    broken_specs: tuple[str, ...] = ()  # what is wrong with them
    missing_paths: tuple[str, ...] = ()  # that specifications name
    closed_devices: tuple[str, ...] = ()  # device nodes that not everybody may open
    toolkit: str = ""  # path of nvidia-ctk
    hook: str = ""  # path of the container toolkit's hook


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""


def _cards() -> int:
    devices = Path("/sys/bus/pci/devices")
    if not devices.is_dir():
        return 0
    entries = [entry for entry in devices.iterdir() if _text(entry / "vendor") == NVIDIA]
    return sum(_text(entry / "class").startswith(DISPLAY_CLASSES) for entry in entries)


def _is_closed(path: Path) -> bool:
    # Containers are not the host's root, and file systems of devices can't map ids on every kernel.
    return path.exists() and path.stat().st_mode & EVERYBODY != EVERYBODY


def gather_gpus(settings: Settings, specs: Specs | None = None) -> GpuFacts:
    """Look at this machine's GPUs, for a platform with these settings."""
    library, problem = (None, "") if settings.gpus else nvml.load()
    unusable: list[str] = []
    found: list[nvml.Found] = []
    if library is not None:
        found = nvml.discover(library, lambda number, why: unusable.append(f"{number} ({why})"))
    spec_list, broken = (specs or Specs()).all()
    named = {name for spec in spec_list for name in spec.devices}
    mine = {name for one in found for name in (one.device.uuid, one.index)} & named
    edits = [edits for spec in spec_list for edits in (spec.common, *(spec.devices[name] for name in mine & set(spec.devices)))]
    binds = dict.fromkeys(bind for one in edits for bind in one.binds)
    paths = [*(bind.source for bind in binds), *(Path(hook.path) for one in edits for hook in one.hooks)]
    kinds = Counter(one.device.kind for one in found)
    return GpuFacts(
        declared=settings.gpus,
        cards=_cards(),
        driver=_text(Path("/sys/module/nvidia/version")),
        found=", ".join(f"{count}×{kind}" for kind, count in sorted(kinds.items())),
        driver_problem=problem,
        unusable=tuple(unusable),
        unnamed=tuple(one.device.uuid for one in found if not {one.device.uuid, one.index} & named),
        broken_specs=tuple(map(str, broken)),
        missing_paths=tuple(dict.fromkeys(str(path) for path in paths if not os.path.lexists(path))) if found else (),
        closed_devices=tuple(str(bind.source) for bind in binds if bind.is_device and _is_closed(bind.source)) if found else (),
        toolkit=shutil.which("nvidia-ctk", path=MANY_PATHS) or "",
        hook=shutil.which(HOOK, path=MANY_PATHS) or "",
    )
