"""What the agent makes of children of templates, with real processes and sockets, and no template."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pilotlight.core.containers import ContainerSpec
from pilotlight.node.cgroups import Group
from pilotlight.node.killing import kill_all
from pilotlight.node.rootfs import IdMap
from pilotlight.node.setup import Setup
from pilotlight.node.templates.channel import Channel, TemplateFault
from pilotlight.node.templates.patience import Patience
from pilotlight.node.templates.spare import KILLED, Spare, discard, make_spare
from pilotlight.node.templates.template import Template
from pilotlight.node.templates.warm import _enter, _held
from pilotlight.node.tracing import Held


def spare_that_said(*messages: object) -> Spare:
    channel, theirs = Channel.pair(Patience(1.0))
    with theirs:
        for message in messages:
            theirs.send(json.dumps(message).encode())
    return Spare(cast(Template, None), channel, Group({}))


@pytest.mark.parametrize("code", [0, 7, 128 + 11, 128 + 15, 200, 255])
def test_any_exit_code_is_told_as_it_is(code: int) -> None:
    spare = spare_that_said({"exit": code})
    assert spare.exit_code() == code
    spare.close()


@pytest.mark.parametrize("said", [[], [{}], [{"exit": 256}], [{"exit": -1}], [{"exit": "7"}], [["exit"]]])
def test_who_tells_no_exit_code_was_killed(said: list[object]) -> None:
    spare = spare_that_said(*said)
    assert spare.exit_code() == KILLED
    spare.close()


def test_whoever_has_the_number_of_a_dead_child_by_now_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as dead, subprocess.Popen(["sleep", "60"]) as innocent:
        spare = spare_that_said()
        spare.pid, spare.pidfd = innocent.pid, os.pidfd_open(dead.pid)
        dead.kill()
        dead.wait()
        try:
            discard(cast(Setup, None), spare)
            assert innocent.poll() is None
            time.sleep(0.1)
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_words_that_can_not_be_understood_are_no_exit_code() -> None:
    for said in (b"[" * 100_000, b'{"exit": 1', b"\xff", b'"exit"'):
        channel, theirs = Channel.pair(Patience(1.0))
        with theirs:
            theirs.send(said)
        spare = Spare(cast(Template, None), channel, Group({}))
        assert spare.exit_code() == KILLED
        spare.close()


SAY = "import socket, sys, time; one = socket.socket(fileno=int(sys.argv[1])); [one.send(said.encode()) for said in sys.argv[2:]]"


@contextlib.contextmanager
def stranger_that_says(channel_end: socket.socket, *messages: str) -> Generator["subprocess.Popen[bytes]"]:
    """A process that says these, with its own number, and must be left alone."""
    with channel_end:
        fd = channel_end.fileno()
        stranger = subprocess.Popen([sys.executable, "-c", f"{SAY}; time.sleep(60)", str(fd), *messages], pass_fds=[fd])
    with stranger:
        try:
            yield stranger
            time.sleep(0.1)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_who_is_not_of_the_template_is_taken_for_no_child_of_it() -> None:
    """Its number is that of a child that has ended, or the template names somebody else's process."""
    channel, theirs = Channel.pair(Patience(5.0))
    network = SimpleNamespace(tune=lambda *_: None, take_port=lambda: None, attach=lambda *_: None)
    setup = SimpleNamespace(groups=SimpleNamespace(of=lambda _: Group({})), network=network, ids=IdMap(), sysctls={})
    template = SimpleNamespace(
        make_network=lambda: os.open("/proc/self/ns/net", os.O_RDONLY),
        fork=lambda _: channel,
        started=SimpleNamespace(group=Group({})),
    )
    with stranger_that_says(theirs, '{"born": true}'), pytest.raises(TemplateFault, match="no process of it"):
        make_spare(cast(Setup, setup), cast(Template, template))


@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")
def test_who_is_not_in_the_group_of_a_child_is_not_its_program(tmp_path: Path) -> None:
    channel, theirs = Channel.pair(Patience(5.0))
    (tmp_path / "cgroup.procs").write_text("123\n")
    spare = Spare(cast(Template, None), channel, Group({"pids": (2, tmp_path)}))
    outputs = os.pipe()
    with stranger_that_says(theirs, '{"init": true}', '{"program": true}'), pytest.raises(TemplateFault, match="no process of it"):
        _enter(ContainerSpec("ta-1", (), (), {}), spare, os.open("/", os.O_PATH), *outputs)
    spare.close()
    for fd in outputs:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")
def test_one_process_is_not_both_init_and_program() -> None:
    channel, theirs = Channel.pair(Patience(5.0))
    spare = Spare(cast(Template, None), channel, Group({}))
    outputs = os.pipe()
    both = stranger_that_says(theirs, '{"init": true}', '{"program": true}')
    with both as liar, pytest.raises(TemplateFault, match="both its init and its program"):
        spare.pid = liar.pid
        _enter(ContainerSpec("ta-1", (), (), {}), spare, os.open("/", os.O_PATH), *outputs)
    spare.close()
    for fd in outputs:
        os.close(fd)


def test_who_is_traced_already_is_not_waited_for() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        with Held(process.pid) as held:
            held.stop()
            with pytest.raises(OSError), _held(process.pid):
                pass
        process.kill()


def test_who_fails_while_it_is_held_is_killed_and_buried() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        with pytest.raises(ValueError, match="as it must"), _held(process.pid):
            raise ValueError("as it must")
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)


TRACES = """
import ctypes, sys, time
assert ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None) == 0
print(flush=True)
time.sleep(60)
"""


def test_all_are_killed_before_any_is_waited_for() -> None:
    """The end of one whom another traces is told when that one has ended."""
    with subprocess.Popen(["sleep", "60"]) as traced, subprocess.Popen(["sleep", "60"]) as spared:
        command = [sys.executable, "-c", TRACES, str(traced.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as tracer:
            assert tracer.stdout is not None and tracer.stdout.readline() == b"\n"
            members = {traced.pid, spared.pid, tracer.pid}
            kill_all(lambda: {pid for pid in members if Path(f"/proc/{pid}").exists()}, but=spared.pid)
            assert spared.poll() is None
            assert not Path(f"/proc/{traced.pid}").exists() and not Path(f"/proc/{tracer.pid}").exists(), "they are buried"
        spared.kill()
