"""What programs print: numbered, followed, found again."""

import asyncio
from pathlib import Path

import pytest
from heart import Heart, beat
from modal_proto import api_pb2

from pilotlight.control import output_log
from pilotlight.control.output_log import ID_GAP, Filter, OutputLog, Printed, line_id_of

STDOUT, STDERR = 1, 2


def print_lines(log: OutputLog, app_id: str, *texts: str, task_id: str = "ta-1", fd: int = STDOUT, at: float = 100.0) -> None:
    log.append(app_id, "fu-1", task_id, [Printed(fd, text, at) for text in texts])


async def read(log: OutputLog, chosen: Filter, after: int = 0) -> list[str]:
    return [item.data async for batch in log.follow(chosen, after, 0, lambda: False) for item in batch.items]


def test_a_reader_gets_what_it_asked_for_from_its_cursor_on(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        log = heart.server.output_log
        print_lines(log, "ap-1", "one\n", "two\n")
        print_lines(log, "ap-2", "of another app\n")
        print_lines(log, "ap-1", "three\n", task_id="ta-2", fd=STDERR)
        assert await read(log, Filter("ap-1")) == ["one\n", "two\n", "three\n"]
        assert await read(log, Filter("ap-1"), after=ID_GAP + 1) == ["two\n", "three\n"]
        assert await read(log, Filter("ap-1", task_id="ta-2")) == ["three\n"]
        assert await read(log, Filter("ap-1", file_descriptor=STDOUT)) == ["one\n", "two\n"]
        assert await read(log, Filter("ap-1", search="t")) == ["two\n", "three\n"]
        assert await read(log, Filter("ap-1", function_id="fu-2")) == []
        log.append("ap-1", "fu-1", "ta-1", [Printed(STDOUT, "of a call\n", 100.0, "fc-1", "in-1")])
        assert (
            await read(log, Filter("ap-1", call_id="fc-1")) == await read(log, Filter("ap-1", input_id="in-1")) == ["of a call\n"]
        )
        assert await read(log, Filter("ap-1", call_id="fc-2")) == []

    beat(tmp_path, scenario)


def test_a_line_is_shown_when_it_is_on_disk(tmp_path: Path) -> None:
    """Shown before, it would be shown again, under a new number, by the server after one that died in between."""

    async def scenario(heart: Heart) -> None:
        log = heart.server.output_log
        print_lines(log, "ap-1", "one\n")
        assert await read(log, Filter("ap-1"), after=ID_GAP) == []
        await log.settled()
        assert await read(log, Filter("ap-1"), after=ID_GAP) == ["one\n"]

    beat(tmp_path, scenario)


def test_memory_and_disk_tell_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_log, "RECENT_LINES", 2)

    async def scenario(heart: Heart) -> None:
        log = heart.server.output_log
        texts = [f"{number}\n" for number in range(10)]
        print_lines(log, "ap-1", *texts)
        assert await read(log, Filter("ap-1"), after=ID_GAP + 3) == texts[3:]
        log.append("ap-1", "fu-1", "ta-1", [Printed(STDOUT, "of a call\n", 100.0, "fc-1", "in-1")])
        await heart.restart()
        log = heart.server.output_log
        print_lines(log, "ap-1", "after the restart\n")
        assert await read(log, Filter("ap-1")) == [*texts, "of a call\n", "after the restart\n"]
        batches = await log.fetch(Filter("ap-1", call_id="fc-1"), None, None, 0)
        assert [(item.data, item.function_call_id, item.input_id) for batch in batches for item in batch.items] == [
            ("of a call\n", "fc-1", "in-1")
        ]

    beat(tmp_path, scenario)


def test_a_cursor_from_before_a_restart_is_never_ahead(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        log = heart.server.output_log
        print_lines(log, "ap-1", "one\n")
        log.task_state("ap-1", "fu-1", "ta-1", api_pb2.TASK_STATE_ACTIVE)  # numbered, shown, and on no disk
        await heart.restart()
        log = heart.server.output_log
        print_lines(log, "ap-1", "after the restart\n")
        assert await read(log, Filter("ap-1"), after=ID_GAP + 2) == ["after the restart\n"]

    beat(tmp_path, scenario)


def test_a_follower_is_woken_by_a_line_and_ends_with_its_app(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        log = heart.server.output_log
        done = False
        following = log.follow(Filter("ap-1"), 0, 15, lambda: done)
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        print_lines(log, "ap-1", "hello\n")
        batch = await first
        assert [item.data for item in batch.items] == ["hello\n"] and line_id_of(batch.entry_id) == ID_GAP + 1
        last = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        done = True
        log.wake("ap-1")
        assert (await last).app_done
        assert await anext(following, None) is None

    beat(tmp_path, scenario)


def test_the_newest_lines_of_a_span_are_found_and_counted(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        log = heart.server.output_log
        for second in range(10):
            print_lines(log, "ap-1", f"{second}\n", at=100.0 + second)
        batches = await log.fetch(Filter("ap-1"), 102.0, 108.0, 3)
        assert [item.data for batch in batches for item in batch.items] == ["5\n", "6\n", "7\n"]
        assert await log.count(Filter("ap-1"), 100.0, 110.0, 5) == [(100.0, STDOUT, 5), (105.0, STDOUT, 5)]

    beat(tmp_path, scenario)


def test_old_lines_go(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        now = 1_000_000_000.0
        log = OutputLog(heart.server.output_database, now=lambda: now)
        print_lines(log, "ap-1", "old\n", at=now - output_log.RETENTION_S - 1)
        print_lines(log, "ap-1", "new\n", at=now - output_log.RETENTION_S + 1)
        assert await log.collect() == 1
        batches = await log.fetch(Filter("ap-1"), None, None, 0)
        assert [item.data for batch in batches for item in batch.items] == ["new\n"]

    beat(tmp_path, scenario)


@pytest.mark.parametrize(("entry_id", "number"), [("", 0), ("17-0", 17), ("17", 17), ("nonsense", 0)])
def test_cursors(entry_id: str, number: int) -> None:
    assert line_id_of(entry_id) == number
