"""What the supervisor writes down of what it does, and that it does it all the same where that can't be written."""

import asyncio
import os
from pathlib import Path

import pytest

from pilotlight.supervisor.child import Child, Program
from pilotlight.supervisor.journal import Journal, open_log


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    journal = Journal(Path("/dev/full"), echo=False)
    journal.log("process_ended", role="server")


def test_a_line_that_was_half_written_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "supervisor.log"
    journal = Journal(path, echo=False)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    journal.log("process_ended", role="server")
    monkeypatch.setattr(os, "write", write)
    journal.log("process_started", role="server")
    first, second = path.read_text().splitlines()
    assert len(first) == 10 and second.endswith(" process_started role=server")


def test_a_line_that_was_not_written_at_all_leaves_none_that_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "supervisor.log"
    journal = Journal(path, echo=False)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    for event in ("first", "lost", "last"):
        monkeypatch.setattr(os, "write", full if event == "lost" else write)
        journal.log(event)
    assert [line.split()[1:] for line in path.read_text().splitlines()] == [["first"], ["last"]]


def test_the_supervisor_says_that_a_process_has_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_logs_of_servers(monkeypatch)
    program = Program("server", ["true"], {}, tmp_path / "server.log")
    child = Child(program, Journal(tmp_path / "supervisor.log", echo=False), lambda: child.retire(), lambda child: None)
    asyncio.run(child.run())
    lines = (tmp_path / "supervisor.log").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["no_room_for_log", "process_started", "process_ended"]
    assert f"role=server path={tmp_path}/server.log" in lines[0]


def test_no_room_for_a_log_keeps_no_process_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_logs_of_servers(monkeypatch)
    descriptor = open_log(tmp_path / "server.log")
    assert Path(f"/proc/self/fd/{descriptor}").readlink() == Path("/dev/null")
    os.close(descriptor)


def refuse_logs_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == "server.log":
            raise OSError(28, os.strerror(28))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
