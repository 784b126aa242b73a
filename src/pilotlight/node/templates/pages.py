"""Which pages of a template's memory its children write while they begin: learned from the first, for others to have theirs ready.

Owns one invariant: only numbers of pages are learned, never what is in them. A page is a child's own once it has written to it, and
the kernel tells so from outside. What each of a few children had written when it had answered its first input is what all do.
Source: Documentation/admin-guide/mm/pagemap.rst of Linux.
"""

import array
import os
from collections.abc import Iterable
from pathlib import Path

SAMPLES = 3
MOST_PAGES = 4096  # of a spare: 16 MiB where a page has 4 KiB
MOST_LOOKED_AT = 1 << 18  # of a template, which decides itself how much it maps: 1 GiB
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_ENTRY_BYTES = 8
_PRESENT, _OF_FILE, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56


Ranges = list[tuple[int, int]]
"""(number of the first page, how many)."""


class Pages:
    """Those of one template's children: of the process that runs the program, and of its init."""

    def __init__(self) -> None:
        self.of_program: Ranges = []
        self.of_init: Ranges = []
        self.own_bytes = 0  # what a spare takes for them
        self._programs: set[int] = set()
        self._inits: set[int] = set()
        self._samples = 0

    @property
    def is_known(self) -> bool:
        """Whether no more children need to be looked at."""
        return self._samples >= SAMPLES

    def add(self, program: set[int], init: set[int]) -> None:
        """A child's two processes have written these."""
        if self.is_known or not program or not init:
            return
        self._programs = self._programs & program if self._samples else program
        self._inits = self._inits & init if self._samples else init
        self._samples += 1
        self.of_program = list(_ranges(sorted(self._programs)[:MOST_PAGES]))
        self.of_init = list(_ranges(sorted(self._inits)[:MOST_PAGES]))
        self.own_bytes = _PAGE_BYTES * sum(count for _, count in (*self.of_program, *self.of_init))


def written(child: int, template: int) -> set[int]:
    """Numbers of the pages that a child has to itself, where its template has memory to write to; none if one of them has ended."""
    found: set[int] = set()
    looked_at = 0
    try:
        with Path(f"/proc/{template}/maps").open() as maps, Path(f"/proc/{child}/pagemap").open("rb", buffering=0) as pagemap:
            for line in maps:
                place, rights, *_ = line.split(maxsplit=2)
                if rights != "rw-p":
                    continue
                first, end = (int(address, 16) // _PAGE_BYTES for address in place.split("-"))
                looked_at += end - first
                if looked_at > MOST_LOOKED_AT:
                    break
                found.update(_own(pagemap.fileno(), first, end - first))
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return found


def _own(pagemap: int, first: int, count: int) -> Iterable[int]:
    entries = array.array("Q", os.pread(pagemap, count * _ENTRY_BYTES, first * _ENTRY_BYTES))
    wanted = _PRESENT | _EXCLUSIVE
    for number, entry in enumerate(entries, first):
        if entry & (wanted | _OF_FILE) == wanted:
            yield number


def _ranges(numbers: Iterable[int]) -> Iterable[tuple[int, int]]:
    first = end = -1
    for number in numbers:
        if number != end:
            if end > first:
                yield first, end - first
            first = number
        end = number + 1
    if end > first:
        yield first, end - first
