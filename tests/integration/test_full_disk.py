"""The disk of the platform is full: changes are refused by name, reading goes on, and all is well again once there is room."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import modal
import pytest
from control.heart import MAP, FakeNode, Heart, beat, put_item
from running_server import RunningServer
from support.small_disk import SmallDisk, small_disk

from pilotlight.control.live import LiveTask
from pilotlight.core import errors
from pilotlight.core.blobs import WholeUpload

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

DISK_MIB = 8


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", DISK_MIB) as made:
        yield made


def test_a_client_is_told_and_can_read_on(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    server = RunningServer(disk.path)
    server.start()
    try:
        monkeypatch.setenv("MODAL_SERVER_URL", server.url)
        with modal.Client.from_credentials(*server.token) as client:
            notes = modal.Dict.from_name("notes", create_if_missing=True, client=client)
            notes["kept"] = "before"
            _, upload = server.use_cases.blobs.create(
                "test", "", 100_000, "", takes_parts=False, knows_private_hosts=False, edge_base_url=None
            )
            assert isinstance(upload, WholeUpload)
            disk.fill()
            with pytest.raises(modal.exception.ResourceExhaustedError, match=r"disk of the platform is full.*Make room"):
                notes["lost"] = "x" * 4096
            assert (notes["kept"], notes.len()) == ("before", 1)
            refused = httpx.put(upload.url, content=b"x" * 100_000, timeout=60)
            assert refused.status_code == 507 and "disk of the platform is full" in refused.text
            disk.make_room()
            notes["found"] = "after"
            assert sorted(notes.keys()) == ["found", "kept"]
            assert httpx.put(upload.url, content=b"x" * 100_000, timeout=60).status_code == 200
    finally:
        server.stop()


def test_no_result_is_lost_or_doubled_by_a_disk_that_was_full_meanwhile(disk: SmallDisk) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        task = await node.ready(await heart.define(max_concurrent_inputs=10))
        call = await heart.call(task.pool.function_id, count=10, kind=MAP)
        held = [input_id for message in node.delivered() for input_id, _ in message]
        assert len(held) == 10
        for input_id in held[:4]:
            assert not await node.answer(task, input_id)
        disk.fill()
        refused = [input_id for input_id in held[4:] if await node.answer(task, input_id)]
        assert refused  # a page or two of the log may have been free
        assert sorted(task.held) == sorted(refused)  # as before: the node has their outputs, and sends them again
        disk.make_room()
        for input_id in refused:
            assert not await node.answer(task, input_id)
        found = await heart.outputs(call.call_id)
        assert sorted(item.input_id for item in found.items) == sorted(held) and found.unfinished == 0

    (disk.path / "state").mkdir()
    beat(disk.path / "state", scenario)


def test_inputs_that_come_again_while_they_are_written_are_refused_together(disk: SmallDisk) -> None:
    """Whoever asks again is not told that they are there because somebody is about to write them."""

    async def scenario(heart: Heart) -> None:
        call = await heart.call(await heart.define(), count=1, kind=MAP)
        disk.fill()
        more = [put_item(1), put_item(2)]
        asked = [asyncio.ensure_future(heart.server.calls.put_inputs(call.call_id, more)) for _ in range(3)]
        await asyncio.sleep(0)  # all have begun
        asked[0].cancel()  # its client has gone, and asks again
        first, *others = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        assert all(isinstance(one, errors.DiskFull) for one in others), others
        assert sorted(call.seen) == sorted(call.unfinished) == [0] and len(call.pool.queue) == 1
        disk.make_room()
        assert len(await heart.server.calls.put_inputs(call.call_id, more)) == 2
        assert sorted(call.seen) == [0, 1, 2] and len(call.pool.queue) == 3

    (disk.path / "state").mkdir()
    beat(disk.path / "state", scenario)


def test_inputs_that_come_again_just_when_their_writing_has_failed_are_refused_too(disk: SmallDisk) -> None:
    """They are withdrawn a turn of the loop later: until then it looks as if they were there."""

    async def scenario(heart: Heart) -> None:
        call = await heart.call(await heart.define(), count=1, kind=MAP)
        disk.fill()
        more = [put_item(1), put_item(2)]
        asked = asyncio.ensure_future(heart.server.calls.put_inputs(call.call_id, more))
        await asyncio.sleep(0)
        assert call.writing is not None
        ask, answers = heart.server.calls.put_inputs, list[object]()

        def again(_: object) -> None:
            """The same request, whose turn comes before that of the one that waits."""
            try:
                ask(call.call_id, more).send(None)
            except StopIteration as done:
                answers.append(done.value)
            except errors.DiskFull as error:
                answers.append(error)

        call.writing.add_done_callback(again)
        with pytest.raises(errors.DiskFull):
            await asked
        assert isinstance(answers[0], errors.DiskFull), answers
        assert sorted(call.seen) == [0]
        disk.make_room()
        assert len(await ask(call.call_id, more)) == len(await ask(call.call_id, more)) == 2
        assert sorted(call.seen) == sorted(call.unfinished) == [0, 1, 2]

    (disk.path / "state").mkdir()
    beat(disk.path / "state", scenario)


async def refused_with_a_container(heart: Heart, disk: SmallDisk, **fields: object) -> tuple[FakeNode, LiveTask, str]:
    """A call that the disk refused after a container had been given its input; returns that container and the input's id."""
    node = FakeNode(heart)
    await node.connect()
    task = await node.ready(await heart.define(**fields))
    disk.fill()
    with pytest.raises(errors.DiskFull):
        await heart.call(task.pool.function_id, key="refused")
    [[(input_id, _)]] = node.delivered()
    disk.make_room()
    return node, task, input_id


def test_an_input_that_was_refused_and_comes_again_stays_with_the_container_that_has_it(disk: SmallDisk) -> None:
    """Its node would take a second delivery for the first, and the caller would wait for what nobody runs."""

    async def scenario(heart: Heart) -> None:
        node, task, input_id = await refused_with_a_container(heart, disk)
        brother = await node.ready(task.pool.function_id)
        call = await heart.call(task.pool.function_id, key="refused")
        assert list(task.held) == [input_id] and not brother.held and not call.pool.queue
        assert not await node.answer(task, input_id)
        assert [item.input_id for item in (await heart.outputs(call.call_id)).items] == [input_id]
        assert not call.unfinished and not task.held and not node.delivered()

    (disk.path / "state").mkdir()
    beat(disk.path / "state", scenario)


def test_the_output_of_an_input_that_was_refused_is_of_nobodys_interest(disk: SmallDisk) -> None:
    async def scenario(heart: Heart) -> None:
        node, task, input_id = await refused_with_a_container(heart, disk)
        assert not await node.answer(task, input_id)
        assert not task.held and heart.server.calls.finished_total == 0
        call = await heart.call(task.pool.function_id, key="refused")  # now it is an input like any other
        assert node.delivered() == [[(input_id, 0)]]
        assert not await node.answer(task, input_id)
        assert len((await heart.outputs(call.call_id)).items) == 1 and not call.unfinished

    (disk.path / "state").mkdir()
    beat(disk.path / "state", scenario)


def test_an_input_that_was_refused_does_not_outlive_its_container(disk: SmallDisk) -> None:
    async def scenario(heart: Heart) -> None:
        node, task, input_id = await refused_with_a_container(heart, disk)
        brother = await node.ready(task.pool.function_id)
        await node.exit(task)
        assert not task.pool.queue and not brother.held and not node.delivered()
        await heart.call(task.pool.function_id, key="refused")
        assert list(brother.held) == [input_id]

    (disk.path / "state").mkdir()
    beat(disk.path / "state", scenario)


def test_an_input_that_is_refused_while_its_output_is_refused_is_not_held_any_more(disk: SmallDisk) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        task = await node.ready(await heart.define())
        disk.fill()
        calling = asyncio.ensure_future(heart.call(task.pool.function_id, key="refused"))
        [[(input_id, _)]] = await node.next_delivered()
        assert await node.answer(task, input_id)  # the node sends it again
        with pytest.raises(errors.DiskFull):
            await calling
        assert not task.held or not await node.answer(task, input_id)
        disk.make_room()
        call = await heart.call(task.pool.function_id, key="refused")
        assert node.delivered() == [[(input_id, 0)]] and list(task.held) == [input_id]
        assert not await node.answer(task, input_id)  # the one that was refused; its node has taken the delivery for a repetition
        assert not call.unfinished and not task.held

    (disk.path / "state").mkdir()
    beat(disk.path / "state", scenario)


def test_a_result_of_the_platforms_own_waits_for_room(disk: SmallDisk) -> None:
    """A cancelled input's container can't say it again, so the platform has to."""

    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        call = await heart.call(await heart.define(), count=3, kind=MAP)
        disk.fill()
        failing = asyncio.ensure_future(heart.server.calls.end_pool(call.pool, "its app was stopped"))
        reading = await heart.outputs(call.call_id)
        assert not reading.items
        disk.make_room()
        await failing
        assert len((await heart.outputs(call.call_id)).items) == 3

    (disk.path / "state").mkdir()
    beat(disk.path / "state", scenario)
