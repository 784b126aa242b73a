"""Containers that nodes have killed before they began, since they were not isolated as they should be.

Invariant: all since the server's start are counted, and the last RECENT kept with what was wrong; an operator must see them, since
each is a fault of the platform, of its machine, or an attack.
"""

from collections import deque
from dataclasses import dataclass

import structlog

from pilotlight.wire import platform_pb2

log = structlog.get_logger()

RECENT = 20


@dataclass(frozen=True)
class Refusal:
    """One container, of a task or of a step of a build; `at` in seconds since the epoch."""

    container_id: str
    node_name: str
    faults: tuple[str, ...]
    at: float


class Refusals:
    """What nodes have told of them."""

    def __init__(self) -> None:
        self.total = 0
        self._recent: deque[Refusal] = deque(maxlen=RECENT)

    def add(self, node_name: str, event: platform_pb2.ContainerRefused) -> None:
        """Take in a node's report."""
        self.total += 1
        refusal = Refusal(event.container_id, node_name, tuple(event.faults), event.at_ns / 1e9)
        self._recent.append(refusal)
        log.error("container_not_isolated", container_id=refusal.container_id, node=node_name, faults=refusal.faults)

    def recent(self) -> list[Refusal]:
        """The last ones, the oldest first."""
        return list(self._recent)
