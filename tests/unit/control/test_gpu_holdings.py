"""Who has which GPU: whole devices, shares, failures, and what is known through restarts."""

from hypothesis import given
from hypothesis import strategies as st

from pilotlight.control.gpus import Gpus
from pilotlight.wire.platform_pb2 import GpuDevice


def node(kinds: dict[str, str], shares: int = 1) -> Gpus:
    gpus = Gpus()
    gpus.join("no-1", [GpuDevice(uuid=uuid, kind=kind, shares=shares) for uuid, kind in kinds.items()])
    return gpus


def test_a_device_has_one_holder() -> None:
    gpus = node({"a": "L4", "b": "L4", "c": "T4"})
    assert gpus.take("ta-1", "no-1", "L4", 2) == ("a", "b")
    assert gpus.take("ta-2", "no-1", "L4", 1) == ()
    assert gpus.free("no-1") == {"T4": 1} and gpus.totals("no-1") == {"L4": 2, "T4": 1}
    gpus.release("ta-1")
    assert gpus.take("ta-2", "no-1", "L4", 1) == ("a",)


def test_shares_fill_a_device_before_the_next_and_are_of_different_devices() -> None:
    gpus = node({"a": "L4", "b": "L4"}, shares=2)
    assert [gpus.take(f"ta-{number}", "no-1", "L4", 1) for number in range(3)] == [("a",), ("a",), ("b",)]
    assert gpus.take("ta-4", "no-1", "L4", 2) == () and gpus.free("no-1") == {"L4": 1}
    gpus.release("ta-0")
    assert set(gpus.take("ta-4", "no-1", "L4", 2)) == {"a", "b"}


def test_a_failed_device_goes_to_nobody_and_its_holders_are_named() -> None:
    gpus = node({"a": "L4", "b": "L4"})
    gpus.take("ta-1", "no-1", "L4", 1)
    assert gpus.fail("no-1", "a", "Xid 79") == ["ta-1"] and gpus.fail("no-1", "a", "Xid 79") == []
    gpus.release("ta-1")
    assert gpus.take("ta-2", "no-1", "L4", 2) == () and gpus.take("ta-2", "no-1", "L4", 1) == ("b",)
    assert gpus.totals("no-1") == {"L4": 1} and gpus.failed("no-1") == {"L4": 1} and gpus.failures_total == 1


def test_what_is_held_outlives_the_stream_of_its_node() -> None:
    gpus = node({"a": "L4"})
    gpus.take("ta-1", "no-1", "L4", 1)
    gpus.leave("no-1")
    assert gpus.take("ta-2", "no-1", "L4", 1) == ()
    gpus.join("no-1", [GpuDevice(uuid="a", kind="L4", shares=1)])
    assert gpus.free("no-1") == {} and gpus.free_by_node() == {"no-1": {"L4": 0}}


def test_who_waits_is_told_of_a_release_once() -> None:
    gpus, told = node({"a": "L4"}), []
    gpus.on_free.append(lambda: told.append("free"))
    gpus.take("ta-1", "no-1", "L4", 1)
    for _ in range(2):
        gpus.release("ta-1")
    assert told == ["free"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=40), st.integers(1, 3))
def test_no_device_ever_has_more_holders_than_shares(steps: list[tuple[int, int]], shares: int) -> None:
    gpus = node({"a": "L4", "b": "L4", "c": "L4"}, shares)
    held: dict[int, tuple[str, ...]] = {}
    for holder, count in steps:
        if held.pop(holder, ()):
            gpus.release(f"ta-{holder}")
        elif uuids := gpus.take(f"ta-{holder}", "no-1", "L4", count):
            assert len(set(uuids)) == count
            held[holder] = uuids
        taken = [uuid for uuids in held.values() for uuid in uuids]
        assert all(taken.count(uuid) <= shares for uuid in "abc")
        assert {state.device.uuid: len(state.holders) for state in gpus.all()} == {uuid: taken.count(uuid) for uuid in "abc"}
