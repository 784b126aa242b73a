"""What the agent makes of children of templates, with real processes and sockets, and no template."""

import json
import os
import subprocess
import time
from typing import cast

import pytest

from pilotlight.node.cgroups import Group
from pilotlight.node.setup import Setup
from pilotlight.node.templates.channel import Channel
from pilotlight.node.templates.spare import KILLED, Spare, discard
from pilotlight.node.templates.template import Template


def spare_that_said(*messages: object) -> Spare:
    channel, theirs = Channel.pair(1.0)
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
        channel, theirs = Channel.pair(1.0)
        with theirs:
            theirs.send(said)
        spare = Spare(cast(Template, None), channel, Group({}))
        assert spare.exit_code() == KILLED
        spare.close()
