"""What is asked of programs of an image, which may say anything, or nothing for ever."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pilotlight.core.containers import ContainerRuntime, ContainerSpec, Exit, OnOutput
from pilotlight.images.steps import Command, Said, StepFailed, Steps
from pilotlight.images.surroundings import Surroundings

SURROUNDINGS = cast(Surroundings, SimpleNamespace(container_env=dict[str, str], container_binds=tuple[()]))
COMMAND = Command((), ("/usr/bin/python",))


class Scripted:
    """A runtime and its one container, which prints this and then ends, or waits until it is killed."""

    def __init__(self, *pieces: tuple[int, bytes], ends: bool = True) -> None:
        self._pieces = pieces
        self._end = asyncio.Event()
        self.was_killed = False
        if ends:
            self._end.set()

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> Any:
        for fd, data in self._pieces:
            on_output(fd, data, 0)
        return self

    async def kill(self) -> None:
        self.was_killed = True
        self._end.set()

    async def wait(self) -> Exit:
        await self._end.wait()
        return Exit(0, oom_killed=False, peak_memory_bytes=0, cpu_seconds=0.0)


def steps(runtime: Scripted) -> Steps:
    return Steps(cast(ContainerRuntime, runtime), SURROUNDINGS)


def test_after_too_much_was_said_nothing_is_heard() -> None:
    heard = Said(4)
    for fd, text in ((1, "ab"), (2, "error"), (1, "c"), (1, "de"), (1, "f")):
        heard.receive(fd, text)
    assert heard.text == "abc"
    wide = Said(4)
    for text in ("\N{GREEK SMALL LETTER ALPHA}", "\N{ROCKET}"):
        wide.receive(1, text)
    assert wide.text == "\N{GREEK SMALL LETTER ALPHA}"


def test_what_was_printed_is_the_answer() -> None:
    async def ask() -> str:
        _, said = await steps(Scripted((2, b"a warning"), (1, b"one\n"), (1, b"two"))).ask(COMMAND, most=100, timeout_s=60)
        return said

    assert asyncio.run(ask()) == "one\ntwo"


def test_who_does_not_answer_in_time_is_killed() -> None:
    async def ask() -> bool:
        runtime = Scripted(ends=False)
        with pytest.raises(StepFailed, match=r"/usr/bin/python of the image took more"):
            await steps(runtime).ask(COMMAND, most=100, timeout_s=0)
        return runtime.was_killed

    assert asyncio.run(ask())
