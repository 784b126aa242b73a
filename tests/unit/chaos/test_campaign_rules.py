"""What a campaign does is drawn from its seed alone, and what it excuses is what nobody promised."""

import itertools
from pathlib import Path

import pytest

from tests.chaos.faults import Window
from tests.chaos.journal import Entry, Journal, Outcome, read
from tests.chaos.schedule import KILLS, LONGEST_S, Kind, draw
from tests.chaos.traces import grown
from tests.chaos.verdict import judge

REFUSED = "ConnectionError: [Errno 111] Connect call failed ('127.0.0.1', 9900)"
FULL = "ResourceExhaustedError: The disk of the platform is full: nothing was changed."


def test_a_seed_is_a_schedule() -> None:
    first = list(draw(7, 200))
    assert first == list(draw(7, 200)) != list(draw(8, 200))
    assert sum(event.kind in KILLS for event in first) == 200 and {event.kind for event in first} == set(Kind)
    assert all(earlier.at_s <= later.at_s for earlier, later in itertools.pairwise(first))
    assert all(bool(event.lasts_s) == (event.kind in LONGEST_S) for event in first)


def verdict(operation: str, detail: str, *windows: Window) -> str:
    tally = judge([Entry(operation, "name", 10.0, 20.0, Outcome.FAILED, detail)], windows)
    [what] = [name for name in ("refused", "failed") if tally.total(name)]
    return what


@pytest.mark.parametrize(
    ("operation", "detail", "kind", "expected"),
    [
        ("remote", REFUSED, Kind.KILL_ALL, "refused"),
        ("remote", REFUSED, Kind.KILL_SERVER, "failed"),  # the sockets are the supervisor's
        ("remote", "RemoteError: wrong", Kind.KILL_ALL, "failed"),
        ("map", REFUSED, Kind.CUT_POWER, "failed"),  # it was back in time
        ("get at the end", REFUSED, Kind.KILL_ALL, "failed"),
        ("dict", FULL, Kind.FILL_DISK, "refused"),
        ("dict", FULL, Kind.STALL_DISK, "failed"),
        ("web request", "RuntimeError: 502 its container died", Kind.KILL_CONTAINER, "refused"),
        ("web request", "RuntimeError: 404 there is no web function", Kind.KILL_EDGE, "failed"),
    ],
)
def test_what_is_excused(operation: str, detail: str, kind: Kind, expected: str) -> None:
    assert verdict(operation, detail, Window(kind, 12.0, 18.0)) == expected
    assert verdict(operation, detail, Window(kind, 0.0, 1.0), Window(kind, 30.0, 31.0)) == "failed"


def test_a_map_may_fail_of_a_platform_that_is_away_for_long() -> None:
    assert verdict("map", REFUSED, Window(Kind.KILL_ALL, 18.0, 27.0)) == "failed"
    assert verdict("map", REFUSED, Window(Kind.KILL_ALL, 18.0, 29.0)) == "refused"


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.DOUBLED, Outcome.WRONG, None])
def test_what_is_never_excused(outcome: Outcome | None) -> None:
    entry = Entry("remote", "name", 10.0, 20.0 if outcome else None, outcome, FULL)
    tally = judge([entry], [Window(Kind.KILL_ALL, 0.0, 30.0), Window(Kind.FILL_DISK, 0.0, 30.0)])
    assert tally.total(outcome.value if outcome else "hung") == 1 and len(tally.guilty) == 1


def test_an_operation_without_an_end_is_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.begin("remote", "a")
    journal.end(journal.begin("remote", "b"), Outcome.RIGHT)
    journal.close()
    assert [(entry.name, entry.outcome) for entry in read(path)] == [("a", None), ("b", Outcome.RIGHT)]


def test_more_than_five_percent_is_a_leak() -> None:
    before = {"mounts": 100.0, "cgroups": 4.0, "MiB of the server": 100.0}
    assert grown(before, {"mounts": 105.0, "cgroups": 4.0, "MiB of the server": 106.0}) == {}
    assert grown(before, {"mounts": 106.0, "veths": 1.0}) == {"mounts": (100.0, 106.0), "veths": (0.0, 1.0)}
