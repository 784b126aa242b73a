"""Which pages of its parent's memory a forked process has written."""

import ctypes
import mmap
import os

import pytest

from pilotlight.node.templates.pages import Pages, written

PAGE = mmap.PAGESIZE
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
