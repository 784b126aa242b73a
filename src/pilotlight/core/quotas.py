"""How much a workspace may have at a time, whatever its nodes have."""

from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight.core.placement import Need, Unplaced


@dataclass(frozen=True, slots=True)
class Quota:
    """0: no limit."""

    max_containers: int = 0
    max_gpus: int = 0

    def allowed(self, needs: Sequence[Need], containers: int, gpus: int) -> list[int] | Unplaced:
        """Which of the needs (by number) one more container may have, beside so many containers and GPUs in use."""
        if self.max_containers and containers >= self.max_containers:
            return Unplaced(
                f"{containers} of at most {self.max_containers} containers of this workspace run (max_containers)", is_quota=True
            )
        if not self.max_gpus:
            return list(range(len(needs)))
        counts = [need.gpu.count if need.gpu is not None else 0 for need in needs]
        fitting = [number for number, count in enumerate(counts) if not count or gpus + count <= self.max_gpus]
        if fitting:
            return fitting
        if min(counts) > self.max_gpus:
            return Unplaced(f"needs {min(counts)} GPUs, this workspace may have {self.max_gpus} (max_gpus)", never=True)
        return Unplaced(
            f"needs {min(counts)} GPUs; {gpus} of at most {self.max_gpus} GPUs of this workspace are in use (max_gpus)",
            is_quota=True,
        )
