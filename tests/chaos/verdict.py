"""What is to be made of journals, given the windows of the faults. Pure.

Lost, doubled, wrong and hung are never excused. An exception is, where no promise was made:

* everything was down meanwhile, it says that the connection was, and the operation was not one that outlasts that: a client gives
  up 0.7 s after a refused connection. A map that has begun goes on if the platform is back within MAP_OUTLASTS_S; a spawned call
  ends in any case, only whoever waits for it has to ask anew;
* the disk was full, and the exception says so;
* a web request was under way (it is not durable) when its edge, its node or a container died.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.faults import Window
from tests.chaos.journal import Entry, Outcome
from tests.chaos.schedule import OF_EVERYTHING, Kind

MAP_OUTLASTS_S = 10.0
SLACK_S = 5.0  # a fault's effects outlast it
STARTING_S = 1.0  # until a map has an id, without which it can't outlast anything
FULL = ("disk of the platform is full", "disk of the node is full", "No space left on device", "No usable temporary directory")
BROKEN = (  # connections, and a disk without power
    *("Connect call failed", "Connection refused", "Connection lost", "Connection reset", "disconnected"),
    *("Input/output error", "could not connect", "502 ", "503 ", "504 "),
    # As the client's library says of a connection that broke while a request was being begun on it: `close` deletes what
    # `create_stream` is about to use. It is excused where a broken connection is, no more.
    "'Connection' object has no attribute '_transport'",
)
NOT_DURABLE = frozenset({Kind.KILL_EDGE, Kind.KILL_NODE, Kind.KILL_CONTAINER, Kind.FREEZE_NODE})
CALM = " at the end"  # of the names of operations that are asked when all faults are over


@dataclass
class Tally:
    """Counts by kind of operation, and what is to be explained."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    longest_s: dict[str, float] = field(default_factory=dict)
    guilty: list[str] = field(default_factory=list)

    def total(self, what: str) -> int:
        return sum(of_kind[what] for of_kind in self.counts.values())


def judge(entries: Iterable[Entry], windows: Sequence[Window]) -> Tally:
    """The verdict on all operations of a campaign."""
    tally = Tally()
    for entry in entries:
        what = _verdict(entry, windows)
        tally.counts[entry.operation][what] += 1
        tally.counts[entry.operation]["inputs"] += entry.amount
        if entry.ended_at is not None:
            tally.longest_s[entry.operation] = max(tally.longest_s.get(entry.operation, 0.0), entry.ended_at - entry.began_at)
        if what not in ("right", "refused"):
            tally.guilty.append(
                f"{what}: {entry.name} ({entry.operation}) from {entry.began_at:.1f} to {entry.ended_at}: {entry.detail}"
            )
    return tally


def _verdict(entry: Entry, windows: Sequence[Window]) -> str:
    if entry.outcome is None:
        return "hung"
    if entry.outcome != Outcome.FAILED:
        return entry.outcome.value
    return "refused" if is_excused(entry, windows) else "failed"


def is_excused(entry: Entry, windows: Sequence[Window]) -> bool:
    """Whether an exception broke no promise."""
    if entry.operation.endswith(CALM):
        return False
    during = [window for window in windows if _overlaps(entry, window)]
    kinds = {window.kind for window in during}
    if Kind.FILL_DISK in kinds and any(words in entry.detail for words in FULL):
        return True
    if not any(words in entry.detail for words in BROKEN):
        return False
    if entry.operation == "web request" and kinds & (NOT_DURABLE | OF_EVERYTHING):
        return True
    down = [window for window in during if window.kind in OF_EVERYTHING]
    if entry.operation == "map":
        return any(_length(window) > MAP_OUTLASTS_S or entry.began_at > window.began_at - STARTING_S for window in down)
    return bool(down)


def _overlaps(entry: Entry, window: Window) -> bool:
    assert entry.ended_at is not None
    until = entry.ended_at if window.ended_at is None else window.ended_at
    return entry.began_at <= until + SLACK_S and window.began_at <= entry.ended_at


def _length(window: Window) -> float:
    return (window.ended_at or float("inf")) - window.began_at


def table(tally: Tally) -> str:
    """For people."""
    columns = ("inputs", "right", "refused", "lost", "doubled", "wrong", "failed", "hung")
    lines = [f"{'operation':22}" + "".join(f"{name:>9}" for name in columns) + f"{'longest s':>11}"]
    rows: Mapping[str, Counter[str]] = dict(sorted(tally.counts.items()))
    for operation, counts in rows.items():
        numbers = "".join(f"{counts[name]:9}" for name in columns)
        lines.append(f"{operation:22}{numbers}{tally.longest_s.get(operation, 0.0):11.1f}")
    lines.append(f"{'all':22}" + "".join(f"{tally.total(name):9}" for name in columns))
    return "\n".join(lines)
