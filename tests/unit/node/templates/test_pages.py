"""Which pages of its parent's memory a forked process has written."""

import ctypes
import mmap
import os
import time

import pytest

from pilotlight.node.templates.pages import Pages, written

PAGE = mmap.PAGESIZE
MAP_NORESERVE = 0x4000
PAGES = 64


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told which pages are a process's own")
def test_what_a_child_wrote_and_nothing_else() -> None:
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"\1" * (PAGES * PAGE))
    first = _address(memory) // PAGE
    began, child_began = os.pipe()
    may_end, end = os.pipe()
    child = os.fork()
    if not child:
        for number in (3, 4, 60):
            memory[number * PAGE] = 2
        os.write(child_began, b"x")
        os.read(may_end, 1)
        os._exit(0)
    try:
        os.read(began, 1)
        found = {page - first for page in written(child, os.getpid()) if first <= page < first + PAGES}
        assert found == {3, 4, 60}
    finally:
        os.write(end, b"x")
        os.waitpid(child, 0)
    assert written(child, os.getpid()) == set(), "it has ended"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told which pages are a process's own")
def test_a_template_that_maps_very_much_is_not_looked_at_for_long() -> None:
    huge = mmap.mmap(-1, 1 << 36, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    begun = time.process_time()
    written(os.getpid(), os.getpid())
    assert time.process_time() - begun < 3.0
    huge.close()


def test_what_all_children_wrote_is_learned() -> None:
    pages = Pages()
    pages.add({1, 2, 3, 7, 9}, {5})
    assert not pages.is_known
    pages.add(set(), {5})  # it had ended
    pages.add({1, 2, 3, 8, 9}, {5, 6})
    pages.add({2, 3, 9}, {5, 6})
    assert pages.is_known
    pages.add({100}, {100})
    assert (pages.of_program, pages.of_init) == ([(2, 2), (9, 1)], [(5, 1)])
    assert pages.own_bytes == 4 * PAGE


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
