"""What a client asked for and got, one JSON document a line: written by the clients, read by the verdict.

A line is there once the client goes on, whatever becomes of it after that. Times are seconds on CLOCK_MONOTONIC, the same for all
processes of the machine.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """How an operation ended, as its client sees it."""

    RIGHT = "right"
    WRONG = "wrong"  # a value that is not that of the question
    LOST = "lost"  # what was acknowledged is not there
    DOUBLED = "doubled"  # two results of one input
    FAILED = "failed"  # an exception; the verdict asks whether it was excusable


@dataclass(frozen=True)
class Entry:
    """One operation; `ended_at` and `outcome` are None where it never ended."""

    operation: str  # its kind: "remote", "map" …
    name: str
    began_at: float
    ended_at: float | None = None
    outcome: Outcome | None = None
    detail: str = ""
    amount: int = 1  # inputs, items, files


class Journal:
    """Appends; threads may share one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._file.close()

    def begin(self, operation: str, name: str, amount: int = 1) -> Entry:
        entry = Entry(operation, name, time.monotonic(), amount=amount)
        self._write(entry)
        return entry

    def end(self, entry: Entry, outcome: Outcome, detail: str = "") -> None:
        ended = Entry(entry.operation, entry.name, entry.began_at, time.monotonic(), outcome, detail, entry.amount)
        self._write(ended)

    def _write(self, entry: Entry) -> None:
        with self._lock:
            self._file.write(json.dumps(asdict(entry)) + "\n")


def read(path: Path) -> Iterator[Entry]:
    """The operations of a journal, each once: as it ended, or as it began."""
    entries: dict[str, Entry] = {}
    for line in path.read_text().splitlines():
        document = json.loads(line)
        outcome = document.pop("outcome")
        entries[document["name"]] = Entry(**document, outcome=Outcome(outcome) if outcome else None)
    yield from entries.values()
