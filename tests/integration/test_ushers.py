"""The shell that makes network namespaces for a template, in a user namespace of its own."""

import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotlight.node.templates import usher
from pilotlight.node.templates.channel import TemplateFault
from pilotlight.node.templates.usher import Usher

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="entering a user namespace needs root")


@pytest.fixture
def template() -> Iterator[int]:
    """A process in a user namespace of its own."""
    with subprocess.Popen(["unshare", "--user", "--map-root-user", "sleep", "60"]) as process:
        while "sleep" not in Path(f"/proc/{process.pid}/comm").read_text():
            time.sleep(0.01)
        yield process.pid
        process.kill()


def make_in_time(one: Usher) -> int:
    """What `make` returns; 0 where it waits for ever."""
    made: list[int] = [0]
    making = threading.Thread(target=lambda: made.append(one.make()), daemon=True)
    making.start()
    making.join(5.0)
    return made[-1]


def test_after_a_moment_without_free_descriptors_it_goes_on(template: int) -> None:
    one = Usher(template, "test")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            with pytest.raises(TemplateFault, match="Too many open files"):
                one.make()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        descriptor = make_in_time(one)
        assert descriptor
        assert os.fstat(descriptor).st_ino != Path("/proc/self/ns/net").stat().st_ino
        os.close(descriptor)
    finally:
        one.close()


def test_nobody_waits_for_one_that_hangs(template: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usher, "_SERVE", "while read -r _; do sleep 60; done")
    monkeypatch.setattr(usher, "ANSWER_TIMEOUT_S", 0.2)
    one = Usher(template, "test")
    begun = time.monotonic()
    with pytest.raises(TemplateFault, match="in time"):
        one.make()
    with pytest.raises(TemplateFault):
        one.make()
    one.close()
    one.close()
    assert time.monotonic() - begun < 10.0
