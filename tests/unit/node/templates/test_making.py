"""What the keeper has done on threads: few at a time, and every fault in words that it knows."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pilotlight.core.containers import Recipe
from pilotlight.core.errors import DiskFull
from pilotlight.node.setup import Setup
from pilotlight.node.templates.channel import TemplateFault
from pilotlight.node.templates.making import AT_A_TIME, OnThreads
from pilotlight.node.templates.template import Template

RECIPE = Recipe((), (), {})


def on_threads() -> OnThreads:
    return OnThreads(cast(Setup, SimpleNamespace(threads=ThreadPoolExecutor(8))))


class Slow:
    """Templates that take a while to load."""

    def __init__(self) -> None:
        self.most = self.now = 0
        self._lock = threading.Lock()

    def load(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self._lock:
            self.now -= 1

    def kill(self) -> None: ...


def test_only_a_few_templates_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their threads are those on which containers are set up."""
    slow = Slow()
    monkeypatch.setattr(Template, "room", lambda *_: slow)

    async def make() -> None:
        making = on_threads()
        await asyncio.gather(*(making.template(RECIPE, number) for number in range(6)))

    asyncio.run(make())
    assert slow.most == AT_A_TIME


def test_none_is_begun_once_there_is_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Template, "room", lambda *_: pytest.fail("it was begun"))

    async def make() -> None:
        making = on_threads()
        making.hurry()
        await making.template(RECIPE, 1)

    with pytest.raises(TemplateFault, match="closed"):
        asyncio.run(make())


@pytest.mark.parametrize(
    ("raised", "expected"), [(DiskFull("no room"), DiskFull), (OSError("no"), OSError), (ValueError("x"), TemplateFault)]
)
def test_faults_are_those_that_the_keeper_knows(
    raised: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(Template, "room", fail)

    async def make() -> None:
        await on_threads().template(RECIPE, 1)

    with pytest.raises(expected):
        asyncio.run(make())
