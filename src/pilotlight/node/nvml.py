"""NVIDIA's GPUs as their driver tells of them: which there are, and which have failed.

The driver's library is spoken to through a module with the functions of nvidia-ml-py; a test gives one of its own. Where there is
no driver there are no GPUs. Sources: NVML API reference, "Xid Errors" of the driver's documentation.
"""

import importlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from pilotlight.core.gpus import Device, kind_of, slice_kind

log = structlog.get_logger()

WAIT_MS = 1_000  # of one wait for events: the longest time that the end of the agent takes
EVERY_INSTANCE = 0xFFFFFFFF  # an event that is not of one slice only
# Faults of the program that ran, not of the device: an exception, a page fault, a stopped channel, a time-out …
PROGRAMS_FAULTS = frozenset({13, 31, 43, 45, 68, 109})

OnProblem = Callable[[str, str], None]
"""Called with the uuid of a device and, for people, what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A device, and what else it goes by: `index` is the driver's ("0", for a slice "0:1")."""

    device: Device
    index: str = ""
    parent_uuid: str = ""  # of a slice: the whole device
    instance: int = EVERY_INSTANCE  # of a slice: its GPU instance


def load() -> tuple[Any | None, str]:
    """The module where the driver is there and answers; else why not, empty for a machine that has no driver."""
    pynvml: Any = importlib.import_module("pynvml")  # only where there may be GPUs
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = error.value in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        return None, "" if absent else str(error)
    return pynvml, ""


def _log_unusable(number: int, problem: str) -> None:
    log.error("gpu_not_usable", index=number, error=problem)


def discover(nvml: Any, on_unusable: Callable[[int, str], None] = _log_unusable) -> list[Found]:
    """All devices; of one that is cut into slices, the slices. One that does not answer is left out, and told by its number."""
    found: list[Found] = []
    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            found += _devices_at(nvml, number)
        except nvml.NVMLError as error:
            on_unusable(number, str(error))
    return found


def _devices_at(nvml: Any, number: int) -> list[Found]:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory_mib = nvml.nvmlDeviceGetMemoryInfo(handle).total >> 20
    uuid, kind = nvml.nvmlDeviceGetUUID(handle), kind_of(nvml.nvmlDeviceGetName(handle), memory_mib)
    if not _is_sliced(nvml, handle):
        return [Found(Device(uuid, kind, memory_mib), str(number))]
    slices: list[Found] = []
    for part in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            piece = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, part)
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_NOT_FOUND:
                raise
            continue  # a place for a slice that nobody made
        device = Device(
            nvml.nvmlDeviceGetUUID(piece),
            slice_kind(kind, nvml.nvmlDeviceGetName(piece)),
            nvml.nvmlDeviceGetMemoryInfo(piece).total >> 20,
        )
        slices.append(Found(device, f"{number}:{part}", uuid, nvml.nvmlDeviceGetGpuInstanceId(piece)))
    return slices


def _is_sliced(nvml: Any, handle: Any) -> bool:
    try:
        return nvml.nvmlDeviceGetMigMode(handle)[0] == 1
    except nvml.NVMLError as error:
        if error.value != nvml.NVML_ERROR_NOT_SUPPORTED:
            raise
        return False


def shared(found: Sequence[Found], shares: dict[str, int]) -> list[Found]:
    """The same devices, each for so many containers at a time as its kind is shared by."""
    return [replace(one, device=replace(one.device, shares=shares.get(one.device.kind, 1))) for one in found]


class Watch:
    """Waits for errors of devices on a thread of its own, from `start` to `stop`; `on_problem` is called on that thread."""

    def __init__(self, nvml: Any, found: Sequence[Found], on_problem: OnProblem) -> None:
        self._nvml = nvml
        self._found = found
        self._on_problem = on_problem
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once the thread has ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError as error:
            log.error("gpus_not_watched", error=str(error), effect="their errors are not noticed")
            return
        try:
            for uuid in dict.fromkeys(one.parent_uuid or one.device.uuid for one in self._found):
                self._register(uuid, events)
            while not self._stopping.is_set():
                self._wait(events)
        finally:
            nvml.nvmlEventSetFree(events)

    def _register(self, uuid: str, events: Any) -> None:
        nvml = self._nvml
        kinds = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            nvml.nvmlDeviceRegisterEvents(handle, kinds & nvml.nvmlDeviceGetSupportedEventTypes(handle), events)
        except nvml.NVMLError as error:
            log.warning("gpu_not_watched", uuid=uuid, error=str(error), effect="its errors are not noticed")

    def _wait(self, events: Any) -> None:
        nvml = self._nvml
        try:
            event = nvml.nvmlEventSetWait_v2(events, WAIT_MS)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_TIMEOUT:
                return
            log.error("gpu_events_failed", error=str(error))
            self._look_at_all()
            self._stopping.wait(WAIT_MS / 1000)  # what fails at once would fail so without end
            return
        if event.eventType == nvml.nvmlEventTypeXidCriticalError:
            if event.eventData in PROGRAMS_FAULTS:
                return
            problem = f"Xid {event.eventData}"
        else:
            problem = "an uncorrectable memory error (ECC)"
        try:
            uuid = nvml.nvmlDeviceGetUUID(event.device)
        except nvml.NVMLError:
            self._look_at_all()  # it is too broken to say its name
            return
        for one in self._found:
            if uuid == one.device.uuid or (uuid == one.parent_uuid and event.gpuInstanceId in (EVERY_INSTANCE, one.instance)):
                self._on_problem(one.device.uuid, problem)

    def _look_at_all(self) -> None:
        nvml = self._nvml
        for one in self._found:
            try:
                nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(one.parent_uuid or one.device.uuid))
            except nvml.NVMLError as error:
                self._on_problem(one.device.uuid, f"it does not answer any more ({error})")
