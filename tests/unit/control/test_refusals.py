"""Containers that were not isolated: counted, and the last of them remembered."""

from pilotlight.control.refusals import RECENT, Refusals
from pilotlight.wire import platform_pb2


def test_all_are_counted_and_the_last_kept_with_what_was_wrong() -> None:
    refusals = Refusals()
    for number in range(RECENT + 5):
        event = platform_pb2.ContainerRefused(container_id=f"ta-{number}", faults=["no filter", "no map"], at_ns=number * 10**9)
        refusals.add("here", event)
    assert refusals.total == RECENT + 5
    recent = refusals.recent()
    assert len(recent) == RECENT
    last = recent[-1]
    assert (last.container_id, last.node_name, last.faults) == (f"ta-{RECENT + 4}", "here", ("no filter", "no map"))
    assert recent[-1].at == RECENT + 4
