"""Who is waited for, and for how long."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pilotlight.node.templates import patience
from pilotlight.node.templates.patience import Patience

LIMIT_S = 0.3


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_is_there_is_not_waited_for(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    assert Patience(60.0).awaits(pipe[0])


def test_an_end_is_an_answer() -> None:
    read, write = os.pipe()
    os.close(write)
    assert Patience(60.0).awaits(read)
    os.close(read)


def test_who_sleeps_is_waited_for_no_longer_than_the_limit(pipe: tuple[int, int]) -> None:
    asked: list[int] = []

    def sleepers() -> list[int]:
        asked.append(1)
        return [os.getppid()]

    assert not Patience(LIMIT_S, sleepers).awaits(pipe[0])
    assert asked


def test_who_has_ended_counts_for_nothing(pipe: tuple[int, int]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    assert not Patience(LIMIT_S, lambda: [gone.pid]).awaits(pipe[0])


def test_time_in_which_it_waits_for_a_processor_is_not_counted(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    monkeypatch.setattr(Patience, "_delays_s", lambda self: {1: time.monotonic() - begun, 2: 0.0})
    assert not Patience(LIMIT_S).awaits(pipe[0])
    assert time.monotonic() - begun >= patience.MOST_TIMES * LIMIT_S * 0.9


def test_the_kernel_tells_how_long_one_waited_for_a_processor() -> None:
    """Two that never rest, on one processor: each waits while the other runs."""
    [processor, *_] = os.sched_getaffinity(0)
    command = [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{processor}}})\nwhile True: pass"]
    with subprocess.Popen(command) as one, subprocess.Popen(command) as other:
        try:
            waited = Patience(1.0, lambda: [one.pid, other.pid])
            deadline = time.monotonic() + 30.0
            while max(waited._delays_s().values()) < 0.2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            one.kill()
            other.kill()


def test_numbers_that_nobody_has_do_not_matter() -> None:
    assert Patience(1.0, lambda: [0, 2**30])._delays_s() == {}


def test_several_waits_have_one_end(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    monkeypatch.setattr(Patience, "_delays_s", lambda self: {1: time.monotonic() - begun})
    together = Patience(LIMIT_S).from_now()
    assert not together.awaits(pipe[0])
    again = time.monotonic()
    assert not together.awaits(pipe[0])
    assert time.monotonic() - again < LIMIT_S, "the first has used it all"
    os.write(pipe[1], b"x")
    assert together.awaits(pipe[0]), "what is there was in time"
