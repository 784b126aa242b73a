"""An image whose packages attack in the template: what they may not do fails, what they break starts the ordinary way.

The code of `attacks` is run by a `.pth` file when any interpreter of the image starts, so by the template's, before it is told
anything. What it found out there is printed at the end of the container that is forked from it.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import Platform

from pilotlight.config import SETTINGS_FILE, Settings
from pilotlight.core.containers import ContainerSpec, Recipe
from pilotlight.node.runtime import Runtime
from pilotlight.node.templates import remembered
from pilotlight.node.templates.template import Template

pytestmark = pytest.mark.e2e

NETWORK_SLOT = 58
READY_S = 40.0
ENDED = "No path to the container arguments file provided!"  # how the client ends that was given none
PACKAGES = "usr/local/lib/python3.11/dist-packages"  # where the Python of our Debian bases looks

TELL = """
import atexit, os, sys
told = []
atexit.register(lambda: print("told", told, flush=True))
in_template = "/__pilotlight/warm" in os.environ.get("PYTHONPATH", "")
"""

ATTEMPTS = """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, call, *arguments):
    if call(*arguments) >= 0:
        told.append(name)
if in_template:
    attempt("a network namespace of its own", libc.unshare, 0x40000000)
    attempt("a user namespace with a network", libc.unshare, 0x50000000)
    attempt("another user namespace", libc.setns, os.open("/proc/self/ns/user", os.O_RDONLY), 0x10000000)
    attempt("a key", libc.syscall, 248, b"user", b"x", b"y", 1, -4)
    attempt("bpf", libc.syscall, 321, 0, 0, 0)
    attempt("a new kind of mount", libc.syscall, 430, b"tmpfs", 0)
    attempt("a tree of mounts", libc.syscall, 428, -100, b"/", 1)
    attempt("a file by its handle", libc.syscall, 304, -100, 0, 0)
    attempt("a block device", libc.mknod, b"/dev/shm/disk", 0o60600, 0xfe00)
    attempt("a disk", libc.mount, b"/dev/vda", b"/dev/shm", b"ext4", ctypes.c_ulong(0), None)
    kernel = "/proc/sys/kernel/"
    for path in ("/proc/sysrq-trigger", kernel + "core_pattern", kernel + "hostname", "/proc/kcore", "/root/written"):
        try:
            os.close(os.open(path, os.O_RDWR | (os.O_CREAT if path.startswith("/root") else 0)))
            told.append(path)
        except OSError:
            pass
    if len(os.listdir("/sys/class/net")) > 1:
        told.append("network interfaces")
    if len([name for name in os.listdir("/proc") if name.isdigit()]) > 3:
        told.append("processes of others")
    read, write = os.pipe()
    if not os.fork():
        libc.unshare(0x10000000)
        os.write(write, b"x" if libc.unshare(0x40000000) >= 0 else b".")
        os._exit(0)
    os.wait()
    if os.read(read, 1) == b"x":
        told.append("a network below a user namespace")
    os.close(read), os.close(write)
"""

THREAD = """
import threading, time
if in_template:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
"""

KEEPS_A_FILE = """
if in_template:
    kept = os.open("/etc/passwd", os.O_RDONLY)
    close, os.close = os.close, lambda fd: None if fd == kept else close(fd)
"""

# Our file finds the C library through ctypes: a library that says that all went well.
KEEPS_RIGHTS = """
if in_template:
    import ctypes
    class Library(ctypes.CDLL):
        def __getattribute__(self, name):
            return (lambda *_: 0) if name in LEFT_OUT else super().__getattribute__(name)
    ctypes.CDLL = Library
"""

SHARES_MEMORY = """
if in_template:
    import mmap
    shared = mmap.mmap(-1, 4096)
"""

NEVER_READY = """
if in_template:
    import time
    time.sleep(1000)
"""

DIES = """
if in_template:
    os._exit(3)
"""

FORKS_BADLY = """
if in_template:
    fork = os.fork
    os.fork = lambda: os._exit(4)
"""


# Its second process, the init, is in the spare's own groups when it forks the third.
HOGS_MEMORY = """
if in_template:
    fork, depth = os.fork, 0
    def hog():
        global depth, kept
        pid = fork()
        if not pid:
            depth += 1
        elif depth == 2:
            kept = b"x" * (400 << 20)
        return pid
    os.fork = hog
"""


@dataclass(frozen=True)
class Ended:
    """A container that has ended, and how it began."""

    is_warm: bool
    output: str


@pytest.fixture(scope="module")
def recipe(platform: Platform) -> Recipe:
    """Of a template that the platform has used."""
    if not Settings.load(platform.settings.run_dir / SETTINGS_FILE).warm_starts:
        pytest.skip("this platform has warm_starts off")
    found = remembered.load(platform.settings.node_dir / "templates.json")
    return replace(found[0], modules=())


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    chosen = Settings(state=tmp_path / "state", network_slot=NETWORK_SLOT, warm_starts=True, warm_memory_mib=200)
    yield chosen
    shutil.rmtree(chosen.run_dir, ignore_errors=True)


def with_package(recipe: Recipe, directory: Path, code: str) -> Recipe:
    packages = directory / PACKAGES
    packages.mkdir(parents=True)
    (packages / "attacks.pth").write_text("import attacks\n")
    (packages / "attacks.py").write_text(TELL + code)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755)
    return replace(recipe, layers=(*recipe.layers, directory))


async def containers(settings: Settings, recipe: Recipe, count: int) -> list[Ended]:
    """Start so many, one after the other, the second and later ones when a template had all the time that it may need."""
    runtime = Runtime(settings)
    await runtime.open()
    try:
        ended: list[Ended] = []
        for number in range(count):
            if number:
                await runtime.settled(READY_S)
            output: list[bytes] = []
            spec = ContainerSpec(f"ta-{number}", recipe.layers, recipe.args, recipe.env, "/root", recipe=recipe)
            spec = replace(spec, env={name: value for name, value in spec.env.items() if not name.endswith("ARGUMENTS_PATH")})
            container = await runtime.start(spec, lambda fd, data, at, output=output: output.append(data))
            await container.wait()
            ended.append(Ended(container.is_warm, b"".join(output).decode()))
        return ended
    finally:
        await runtime.close()


def test_attempts_of_a_template_fail(recipe: Recipe, settings: Settings, tmp_path: Path) -> None:
    first, second = asyncio.run(containers(settings, with_package(recipe, tmp_path / "layer", ATTEMPTS), 2))
    assert (first.is_warm, second.is_warm) == (False, True), second.output
    assert ENDED in second.output and "told []" in second.output


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(THREAD, id="a thread"),
        pytest.param(KEEPS_A_FILE, id="an open file"),
        pytest.param("LEFT_OUT = ('capset',)" + KEEPS_RIGHTS, id="capabilities"),
        pytest.param("LEFT_OUT = ('umount2',)" + KEEPS_RIGHTS, id="the template's mounts"),
        pytest.param("LEFT_OUT = ('sethostname', 'prctl')" + KEEPS_RIGHTS, id="no filter"),
        pytest.param(SHARES_MEMORY, id="shared memory"),
        pytest.param(DIES, id="a template that dies"),
        pytest.param(FORKS_BADLY, id="forks that die"),
        pytest.param(HOGS_MEMORY, id="a spare that takes memory"),
    ],
)
def test_what_a_template_does_wrong_starts_the_ordinary_way(recipe: Recipe, settings: Settings, tmp_path: Path, code: str) -> None:
    ended = asyncio.run(containers(settings, with_package(recipe, tmp_path / "layer", code), 2))
    assert [one.is_warm for one in ended] == [False, False]
    assert all(ENDED in one.output for one in ended), ended


def test_a_template_that_can_not_be_held_is_removed_all_the_same(
    recipe: Recipe, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The init of its pid namespace ends when all others in there are buried, and its interpreter is a child of the agent's."""

    def fail(self: Template) -> None:
        begin(self)
        os.close(self.pidfd)
        self.pidfd = -1
        raise OSError(errno.EMFILE, "no descriptor is left")

    begin = Template._begin
    monkeypatch.setattr(Template, "_begin", fail)
    ended = asyncio.run(asyncio.wait_for(containers(settings, recipe, 2), 2 * READY_S))
    assert [one.is_warm for one in ended] == [False, False]


def test_nobody_waits_for_a_template_that_is_never_ready(recipe: Recipe, settings: Settings, tmp_path: Path) -> None:
    async def check() -> None:
        runtime = Runtime(settings)
        await runtime.open()
        try:
            stuck = with_package(recipe, tmp_path / "layer", NEVER_READY)
            for number in range(2):
                spec = ContainerSpec(f"ta-{number}", stuck.layers, stuck.args, stuck.env, "/root", recipe=stuck)
                container = await runtime.start(spec, lambda fd, data, at: None)
                assert not container.is_warm
                await container.wait()
        finally:
            await runtime.close()

    asyncio.run(check())
    assert not os.path.exists(settings.run_dir / "stage")  # noqa: PTH110
