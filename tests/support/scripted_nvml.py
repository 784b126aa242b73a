"""A stand-in for the driver's library: a module's worth of functions, over devices that a test describes and breaks."""

import queue
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As nvidia-ml-py has it: the number is its only argument."""

    @property
    def value(self) -> int:
        return self.args[0]


@dataclass(eq=False)
class Card:
    """A device; `slices` are (uuid, profile, MiB, instance): None has no such mode, an empty list has it without a slice."""

    uuid: str
    name: str
    memory_mib: int
    slices: list[tuple[str, str, int, int]] | None = None
    is_lost: bool = False


@dataclass(eq=False)
class Slice:
    card: Card
    number: int


@dataclass
class ScriptedNvml:
    """Give it where the module is asked for. `break_with` has the next wait for events return one."""

    cards: list[Card]
    events: "queue.Queue[Any]" = field(default_factory=queue.Queue)
    registered: list[str] = field(default_factory=list)
    freed: int = 0

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NOT_FOUND = 6
    NVML_ERROR_TIMEOUT = 10
    NVML_ERROR_GPU_IS_LOST = 15
    nvmlEventTypeDoubleBitEccError = 2
    nvmlEventTypeXidCriticalError = 8

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> Card:
        return self._alive(self.cards[number])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        return next(card for card in self.cards if card.uuid == uuid)

    def nvmlDeviceGetMemoryInfo(self, handle: Card | Slice) -> SimpleNamespace:
        if isinstance(handle, Slice):
            return SimpleNamespace(total=(handle.card.slices or [])[handle.number][2] << 20)
        return SimpleNamespace(total=self._alive(handle).memory_mib << 20)

    def nvmlDeviceGetUUID(self, handle: Card | Slice) -> str:
        if isinstance(handle, Slice):
            return (handle.card.slices or [])[handle.number][0]
        return self._alive(handle).uuid

    def nvmlDeviceGetName(self, handle: Card | Slice) -> str:
        if isinstance(handle, Slice):
            return f"{handle.card.name} MIG {(handle.card.slices or [])[handle.number][1]}"
        return handle.name

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        if card.slices is None:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, number: int) -> Slice:
        if number >= len(card.slices or []):
            raise NVMLError(self.NVML_ERROR_NOT_FOUND)
        return Slice(card, number)

    def nvmlDeviceGetGpuInstanceId(self, handle: Slice) -> int:
        return (handle.card.slices or [])[handle.number][3]

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlEventSetFree(self, events: object) -> None:
        self.freed += 1

    def nvmlDeviceGetSupportedEventTypes(self, card: Card) -> int:
        return 0xFF

    def nvmlDeviceRegisterEvents(self, card: Card, kinds: int, events: object) -> None:
        self.registered.append(card.uuid)

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> SimpleNamespace:
        try:
            event = self.events.get(timeout=timeout_ms / 1000)
        except queue.Empty:
            raise NVMLError(self.NVML_ERROR_TIMEOUT) from None
        if isinstance(event, NVMLError):
            raise event
        return event

    # ---- what a test does ----

    def break_with(self, card: Card, xid: int = 0, instance: int = 0xFFFFFFFF) -> None:
        """An error of a device; xid 0: of its memory."""
        kind = self.nvmlEventTypeXidCriticalError if xid else self.nvmlEventTypeDoubleBitEccError
        self.events.put(SimpleNamespace(device=card, eventType=kind, eventData=xid, gpuInstanceId=instance))

    def time_out(self) -> None:
        """Let a wait for events end without one."""
        self.events.put(NVMLError(self.NVML_ERROR_TIMEOUT))

    def _alive(self, card: Card) -> Card:
        if card.is_lost:
            raise NVMLError(self.NVML_ERROR_GPU_IS_LOST)
        return card
