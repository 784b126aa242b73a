"""What the kernel tells of processes that hide something: real ones, made by hand, since only the kernel can answer."""

import ctypes
import mmap
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from pilotlight.node import observed, syscalls, tracing
from pilotlight.node.observed import Observed, observe, own_namespaces
from pilotlight.node.tracing import Held, trial

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

T = TypeVar("T")
CLONE_FILES, CLONE_VFORK, SIGCHLD = 0x400, 0x4000, 17
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
NOTHING = struct.pack("=HBBI", 0x05, 0, 0, 0)
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def looking() -> Iterator[Callable[[Callable[[], T]], T]]:
    """Calls on a thread that may visit namespaces, as those do that set containers up."""
    with ThreadPoolExecutor(1, initializer=lambda: syscalls.unshare(syscalls.CLONE_FS)) as thread:
        yield lambda work: thread.submit(work).result()


Looking = Callable[[Callable[[], Observed]], Observed]


def child(prepare: Callable[[], None]) -> int:
    """A process that did this and waits to be killed."""
    ready, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            prepare()
            os.write(write, b"+")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(ready, 1) == b"+"
    os.close(ready)
    return pid


def bury(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def look(pid: int, *, apart_from: tuple[int, ...] = ()) -> Observed:
    with Held(pid) as held:
        held.stop()
        return observe(pid, held=held, memory=True, apart_from=apart_from)


def seen(looking: Looking, prepare: Callable[[], None], *, apart_from: tuple[int, ...] = ()) -> Observed:
    pid = child(prepare)
    try:
        return looking(lambda: look(pid, apart_from=apart_from))
    finally:
        bury(pid)


def load_filter(program: bytes) -> None:
    class Filter(ctypes.Structure):
        _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    assert libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(Filter(len(program) // 8, program)), 0, 0) == 0


def test_a_plain_child_has_all_that_is_ours_and_goes_on_afterwards(looking: Looking) -> None:
    pid = child(lambda: None)
    try:
        found = looking(lambda: look(pid, apart_from=(os.getpid(),)))
        assert found.namespaces == own_namespaces()
        assert (found.filters, found.filters_why, found.tracer, found.shared_with) == ((), "", 0, ())
        assert found.is_root_of_namespace and found.cwd_mount in {mount.mount_id for mount in found.mounts}
        status = Path(f"/proc/{pid}/status").read_text()
        assert "TracerPid:\t0\n" in status and "(tracing stop)" not in status
    finally:
        bury(pid)
    assert trial() == ("", "")


def test_each_filter_is_told_and_the_first_one_first(looking: Looking) -> None:
    def prepare() -> None:
        load_filter(NOTHING + ALLOW)
        load_filter(NOTHING + NOTHING + ALLOW)

    assert seen(looking, prepare).filters == (NOTHING + ALLOW, NOTHING + NOTHING + ALLOW)


def test_memory_that_others_may_share_is_told(looking: Looking) -> None:
    kept: list[mmap.mmap] = []
    before = seen(looking, lambda: None).shared_memory
    found = seen(looking, lambda: kept.append(mmap.mmap(-1, 4096, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)))
    assert not any(" rw-s " in line for line in before)
    assert [line.split()[1] for line in set(found.shared_memory) - set(before)] == ["rw-s"]


def test_no_more_is_read_than_there_is_a_limit_for(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "MOST_DESCRIPTORS", 8)
    monkeypatch.setattr(observed, "MOST_BYTES", 2048)
    found = seen(looking, lambda: [os.dup(0) for _ in range(9)].clear())
    assert "more than 8 files are open" in found.unread and len(found.descriptors) == 8
    assert "maps has more than 0 MiB" in found.unread and "cgroup has more than 0 MiB" not in found.unread


def test_a_table_of_open_files_that_two_have_is_told(looking: Looking) -> None:
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    ready, write = os.pipe()
    pid = libc.syscall(number, CLONE_FILES | SIGCHLD, 0, 0, 0, 0)
    if not pid:
        os.write(write, b"+")
        while True:
            signal.pause()
    try:
        os.read(ready, 1)
        found = looking(lambda: look(pid, apart_from=(os.getpid(),)))
        assert found.shared_with == (f"its open files with process {os.getpid()}",)
    finally:
        bury(pid)
        os.close(ready)
        os.close(write)


def test_who_changed_its_root_hides_nothing(looking: Looking, tmp_path: Path) -> None:
    found = seen(looking, lambda: os.chroot(tmp_path))
    assert not found.is_root_of_namespace
    assert "/proc" in {mount.point for mount in found.mounts}


def test_who_is_traced_by_another_can_not_be_held(looking: Looking) -> None:
    pid = child(lambda: None)
    try:
        with Held(pid) as held:
            held.stop()
            with pytest.raises(PermissionError):
                looking(lambda: look(pid))
            assert looking(lambda: observe(pid)).tracer == threading.get_native_id()
    finally:
        bury(pid)


def test_who_does_not_stop_is_killed(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "PATIENCE_S", 0.2)
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    read, write = os.pipe()

    def wait_for_a_child_for_ever() -> None:
        if not libc.syscall(number, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0):
            os.write(write, str(os.getpid()).encode())
            while True:
                signal.pause()

    pid = os.fork()
    if not pid:
        wait_for_a_child_for_ever()
    grandchild = int(os.read(read, 20))
    try:
        with pytest.raises(ProcessLookupError, match="did not let itself be stopped"):
            looking(lambda: look(pid))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(read)
        os.close(write)


def test_an_error_while_it_is_held_kills_it() -> None:
    pid = child(lambda: None)
    with pytest.raises(ValueError, match="of the test"), Held(pid) as held:
        held.stop()
        raise ValueError("of the test")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("becomes_another", [True, False])
def test_an_exec_is_met_before_its_first_instruction_and_an_end_is_told(tmp_path: Path, becomes_another: bool) -> None:
    proof = tmp_path / "proof"
    go, start = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(go, 1)
        if becomes_another:
            os.execv("/bin/sh", ["sh", "-c", f"echo >{proof}; exit 5"])
        os._exit(5)
    with Held(pid, follow_exec=True) as held:
        os.write(start, b"+")
        assert held.until_exec() is becomes_another
        assert not proof.exists()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert proof.exists() is becomes_another
    os.close(go)
    os.close(start)
