"""Others on the machine: what a person without rights there sees of a platform, and what a container sees of the next one."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from conftest import Platform
from test_runtime import Output, opened, python, rootfs, run, settings, shell  # noqa: F401 - fixtures of real containers

from pilotlight.config import Settings

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("crun"), reason="needs root and crun"),
]

NOBODY = 65_534
LOOK = """
import os, sys
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
reached = []
for path in {paths}:
    try:
        with open(path, "rb") if not os.path.isdir(path) else os.scandir(path):
            reached.append(path)
    except OSError:
        pass
print(reached)
"""
# What a container would like to see of this machine and of its neighbour.
PEEK = """
import os
paths = [{neighbour!r}, {state!r}, "/proc/1/root/etc/hostname", "/proc/1/environ"]
print([path for path in paths[:2] if os.path.exists(path)])
print(open(paths[2]).read().strip())
print(max(int(name) for name in os.listdir("/proc") if name.isdigit()) < 1000)
print([line.split()[-1] for line in open("/proc/net/unix") if "pilotlight" in line])
"""


# What a stranger can read below a directory.
WALK = """
import os
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
for directory, _, files in os.walk({top!r}):
    for name in files:
        try:
            with open(os.path.join(directory, name), "rb"):
                print(os.path.relpath(os.path.join(directory, name), {top!r}))
        except OSError:
            pass
"""


def seen_by_nobody(*paths: Path) -> str:
    script = LOOK.format(nobody=NOBODY, paths=[str(path) for path in paths])
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_a_stranger_on_the_machine_sees_nothing_of_a_running_container(settings: Settings, rootfs: Path) -> None:  # noqa: F811
    async def check() -> None:
        settings.run_dir.mkdir(mode=0o711, exist_ok=True)
        readable = settings.run_dir / "arguments"
        readable.write_text("of a container")
        readable.chmod(0o644)
        async with opened(settings) as runtime:
            output = Output()
            container = await runtime.start(shell(rootfs, "echo up; sleep 100"), output)
            await output.until("up")
            found = await asyncio.to_thread(seen_by_nobody, settings.run_dir, settings.run_dir / "containers", readable)
            assert found == "[]"
            assert stat.S_IMODE(settings.run_dir.stat().st_mode) == 0o710
            container.signal(9)
            await container.wait()

    uvloop.run(check())


def test_a_container_sees_neither_the_machine_nor_its_neighbour(settings: Settings, rootfs: Path) -> None:  # noqa: F811
    async def check() -> None:
        async with opened(settings) as runtime:
            output = Output()
            neighbour = await runtime.start(shell(rootfs, "echo up; sleep 100", "ta-neighbour"), output)
            await output.until("up")
            script = PEEK.format(neighbour=str(settings.run_dir / "containers" / "ta-neighbour"), state=str(settings.state))
            ended, seen = await run(runtime, python(rootfs, script))
            assert ended.code == 0, seen.data
            assert seen.text.splitlines() == ["[]", "ta-test", "True", "[]"]
            neighbour.signal(9)
            await neighbour.wait()

    uvloop.run(check())


def test_the_state_is_unreadable_to_others_even_in_a_directory_that_is_not(platform: Platform) -> None:
    state = platform.settings.state
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    walk = WALK.format(nobody=NOBODY, top=str(state))
    modes = {directory: stat.S_IMODE(directory.stat().st_mode) for directory in (state, state.parent)}
    try:
        for directory, mode in modes.items():
            directory.chmod(mode | 0o755)
        found = subprocess.run([sys.executable, "-c", walk], capture_output=True, text=True, check=True).stdout.split()
    finally:
        for directory, mode in modes.items():
            directory.chmod(mode)
    assert set(found) <= {"network_slot"}, found
