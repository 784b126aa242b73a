"""What we read from the driver, and which of its errors take a GPU out of service."""

import queue
from collections.abc import Callable, Iterator

import pytest
from support.scripted_nvml import Card, ScriptedNvml

from pilotlight.node.nvml import Watch, discover, shared

Report = tuple[str, str]


def test_products_become_kinds_with_their_memory() -> None:
    library = ScriptedNvml([Card("GPU-1", "NVIDIA A10", 23028), Card("GPU-2", "NVIDIA H100 80GB HBM3", 81559)])
    found = discover(library)
    assert [(one.device.uuid, one.device.kind, one.device.memory_mib, one.index) for one in found] == [
        ("GPU-1", "A10G", 23028, "0"),
        ("GPU-2", "H100", 81559, "1"),
    ]


def test_a_device_that_is_cut_into_slices_is_its_slices() -> None:
    slices = [("MIG-a", "1g.10gb", 9856, 7), ("MIG-b", "3g.40gb", 40448, 2)]
    library = ScriptedNvml([Card("GPU-1", "NVIDIA H100 80GB HBM3", 81559, slices), Card("GPU-2", "NVIDIA L4", 23034, [])])
    assert [(one.device.uuid, one.device.kind, one.index, one.parent_uuid, one.instance) for one in discover(library)] == [
        ("MIG-a", "H100-MIG-1G.10GB", "0:0", "GPU-1", 7),
        ("MIG-b", "H100-MIG-3G.40GB", "0:1", "GPU-1", 2),
    ]


def test_a_device_that_does_not_answer_costs_the_others_nothing() -> None:
    library = ScriptedNvml([Card("GPU-1", "NVIDIA T4", 15360, is_lost=True), Card("GPU-2", "Tesla T4", 15360)])
    assert [one.device.uuid for one in discover(library)] == ["GPU-2"]


def test_only_kinds_that_are_named_are_shared() -> None:
    library = ScriptedNvml([Card("GPU-1", "Tesla T4", 15360), Card("GPU-2", "NVIDIA L4", 23034)])
    assert [one.device.shares for one in shared(discover(library), {"L4": 4})] == [1, 4]


@pytest.fixture
def watched() -> Iterator[Callable[[ScriptedNvml], "queue.Queue[Report]"]]:
    """Starts a watch; what it reports comes in a queue."""
    watches: list[tuple[Watch, ScriptedNvml]] = []

    def start(library: ScriptedNvml) -> "queue.Queue[Report]":
        reports: queue.Queue[Report] = queue.Queue()
        watch = Watch(library, discover(library), lambda uuid, problem: reports.put((uuid, problem)))
        watches.append((watch, library))
        watch.start()
        return reports

    yield start
    for watch, library in watches:
        watch._stopping.set()
        library.time_out()
        watch.stop()
        assert library.freed == 1


Watched = Callable[[ScriptedNvml], "queue.Queue[Report]"]


def test_an_error_of_the_device_is_reported_and_one_of_a_program_is_not(watched: Watched) -> None:
    library = ScriptedNvml([Card("GPU-1", "NVIDIA L4", 23034), Card("GPU-2", "NVIDIA L4", 23034)])
    reports = watched(library)
    library.time_out()
    library.break_with(library.cards[0], xid=31)  # a page fault: the program's own
    library.break_with(library.cards[1], xid=79)
    library.break_with(library.cards[0])
    assert reports.get(timeout=60) == ("GPU-2", "Xid 79")
    assert reports.get(timeout=60) == ("GPU-1", "an uncorrectable memory error (ECC)")
    assert library.registered == ["GPU-1", "GPU-2"]


def test_an_error_of_one_slice_spares_the_others(watched: Watched) -> None:
    slices = [("MIG-a", "1g.10gb", 9856, 7), ("MIG-b", "1g.10gb", 9856, 8)]
    library = ScriptedNvml([Card("GPU-1", "NVIDIA H100 80GB HBM3", 81559, slices)])
    reports = watched(library)
    library.break_with(library.cards[0], xid=94, instance=8)
    library.break_with(library.cards[0], xid=79)
    assert [reports.get(timeout=60)[0] for _ in range(3)] == ["MIG-b", "MIG-a", "MIG-b"]


def test_a_device_that_is_lost_is_found_by_asking_all(watched: Watched) -> None:
    library = ScriptedNvml([Card("GPU-1", "NVIDIA L4", 23034), Card("GPU-2", "NVIDIA L4", 23034)])
    reports = watched(library)
    library.cards[1].is_lost = True
    library.break_with(library.cards[1], xid=79)
    uuid, problem = reports.get(timeout=60)
    assert uuid == "GPU-2" and "does not answer" in problem
