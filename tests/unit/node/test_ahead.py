"""What is expected waits in a bounded queue, and nothing of it spoils the rest."""

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from pilotlight.config import Settings
from pilotlight.core.errors import Busy
from pilotlight.images.surroundings import Surroundings
from pilotlight.node import ahead
from pilotlight.node.ahead import Ahead
from pilotlight.wire import platform_pb2

DEADLINE_S = 60


class Work:
    """In place of the packer and the compiler: each piece of work waits until it may go on."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.begun: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.may_go_on = asyncio.Event()
        self.failing: dict[str, Exception] = {}
        self.at_once = 0

    async def pack(self, request: platform_pb2.StartTask) -> Any:
        raise AssertionError("there are no templates")

    async def make(self, request: platform_pb2.StartTask) -> None:
        self.compiled.append(request.image_id)
        self.begun[request.image_id].set()
        self.at_once += 1
        assert self.at_once == 1
        try:
            await self.may_go_on.wait()
            if (error := self.failing.get(request.image_id)) is not None:
                raise error
        finally:
            self.at_once -= 1

    async def has_compiled(self, image_id: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.begun[image_id].wait()


def like(image_id: str, padding: int = 0) -> platform_pb2.StartTask:
    mount = platform_pb2.Mount(files=[platform_pb2.MountEntry(path="x" * padding)])
    return platform_pb2.StartTask(image_id=image_id, mounts=[mount])


def prepared(tmp_path: Path, work: Any) -> Ahead:
    return Ahead(Settings(state=tmp_path), work, work, Surroundings(), None)


def test_of_too_many_the_oldest_are_not_prepared_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MOST_WAITING", 3)

    async def check() -> None:
        work = Work()
        expected = prepared(tmp_path, work)
        expected.expect(like("first"))
        await work.has_compiled("first")
        for number in range(10):
            for _ in range(5):
                expected.expect(like(str(number)))
            await asyncio.sleep(0.001)
        work.may_go_on.set()
        await work.has_compiled("9")
        assert work.compiled == ["first", "7", "8", "9"]
        await expected.close()

    asyncio.run(check())


def test_what_waits_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MOST_WAITING_BYTES", 1_000)

    async def check() -> None:
        work = Work()
        expected = prepared(tmp_path, work)
        expected.expect(like("too large", 1_001))
        for image_id in ("one", "two", "three"):
            expected.expect(like(image_id, 400))
        work.may_go_on.set()
        await work.has_compiled("three")
        assert work.compiled == ["two", "three"]
        await expected.close()

    asyncio.run(check())


def test_what_fails_spoils_no_other(tmp_path: Path) -> None:
    async def check() -> None:
        work = Work()
        work.may_go_on.set()
        work.failing = {"busy": Busy("No room."), "late": TimeoutError(), "wrong": KeyError("a fault")}
        expected = prepared(tmp_path, work)
        for image_id in (*work.failing, "good"):
            expected.expect(like(image_id))
        await work.has_compiled("good")
        assert work.compiled == ["busy", "late", "wrong", "good"]
        await expected.close()

    asyncio.run(check())


def test_after_its_end_nothing_begins(tmp_path: Path) -> None:
    async def check() -> None:
        work = Work()
        expected = prepared(tmp_path, work)
        for image_id in ("first", "second"):
            expected.expect(like(image_id))
        await work.has_compiled("first")
        await expected.close()
        assert work.at_once == 0
        expected.expect(like("third"))
        work.may_go_on.set()
        await asyncio.sleep(0.01)
        assert work.compiled == ["first"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(check())
