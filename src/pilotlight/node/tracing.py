"""Holding another process still: stopped by ptrace(2) where a check needs it, and let go as if nothing had been.

Owns one invariant: whoever is held when this agent dies is killed with it, and never goes on unchecked. To the kernel a *thread* is
the tracer, so all calls about one process come from the thread that began. Sources: ptrace(2), seccomp(2), waitid(2).
"""

import contextlib
import ctypes
import errno
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator

from pilotlight.node import syscalls

_SEIZE, _INTERRUPT, _CONT, _DETACH, _GET_FILTER = 0x4206, 0x4207, 7, 17, 0x420C
_OPTION_TRACE_EXEC, _OPTION_EXIT_KILL = 1 << 4, 1 << 20
_EVENT_EXEC, _EVENT_STOP = 4, 128
_TRIED = ("sleep", "60")
PATIENCE_S = 10.0  # for a process to stop: one that waits for its own child of vfork(2) never does
INSTRUCTION_BYTES = 8  # of classic BPF: struct sock_filter
MAX_FILTERS = 8  # more than this were never put upon a process by us


class Held:
    """A process that this thread traces. Use as a context manager: it goes on at the end of the body; an error there kills it.

    `until_exec` must be promised at the start, where it is to be called: the kernel has to know before it happens.
    """

    def __init__(self, pid: int, *, follow_exec: bool = False) -> None:
        self.pid = pid
        self._options = _OPTION_EXIT_KILL | (_OPTION_TRACE_EXEC if follow_exec else 0)

    def __enter__(self) -> "Held":
        syscalls.ptrace(_SEIZE, self.pid, 0, self._options)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            return
        try:
            syscalls.ptrace(_DETACH, self.pid)
        except ProcessLookupError:
            # It runs (nobody stopped it, or it was killed): only what is stopped can be let go.
            if self._stop():
                syscalls.ptrace(_DETACH, self.pid)

    def stop(self) -> None:
        """Stop it where it is; a system call in which it waits begins again when it goes on. Raises ProcessLookupError where there
        is none any more, as after PATIENCE_S without a stop: it is killed then.
        """
        if not self._stop():
            raise ProcessLookupError(errno.ESRCH, f"process {self.pid} has ended, or did not let itself be stopped")

    def until_exec(self) -> bool:
        """Return when it has become another program, of which no instruction has run yet; False: it has ended instead."""
        return self._wait_for(_EVENT_EXEC)

    def filters(self) -> tuple[bytes, ...]:
        """The seccomp programs that a stopped process is under, the oldest first. Raises OSError where the kernel won't tell.

        Needs CAP_SYS_ADMIN, no seccomp filter upon ourselves, and a kernel with CONFIG_CHECKPOINT_RESTORE.
        """
        found: list[bytes] = []
        while len(found) < MAX_FILTERS:
            try:
                count = syscalls.ptrace(_GET_FILTER, self.pid, len(found), None)
            except FileNotFoundError:  # no filter of that number
                break
            except OSError as error:
                if error.errno == errno.EINVAL and not found:  # it is under none at all
                    break
                raise
            program = ctypes.create_string_buffer(count * INSTRUCTION_BYTES)
            syscalls.ptrace(_GET_FILTER, self.pid, len(found), program)
            found.append(program.raw)
        return tuple(found)

    def _stop(self) -> bool:
        try:
            syscalls.ptrace(_INTERRUPT, self.pid)
        except ProcessLookupError:
            return False
        return self._wait_for(_EVENT_STOP)

    def _wait_for(self, event: int) -> bool:
        """Let it go on until this event; what it is signalled meanwhile reaches it. False once it has ended, or took too long."""
        with _patience.for_process(self.pid):
            while True:
                # WNOWAIT: its end, if that is what comes, is for whoever waits for its exit code.
                seen = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                if seen is None or seen.si_code not in (os.CLD_TRAPPED, os.CLD_STOPPED):
                    return False
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
                stopped_by, happened = seen.si_status & 0xFF, seen.si_status >> 8
                if happened == event:
                    return True
                syscalls.ptrace(_CONT, self.pid, 0, 0 if happened or stopped_by == signal.SIGTRAP else stopped_by)


class _Patience:
    """Kills processes for which somebody has waited too long: a wait for a traced process has no time-out of its own.

    One thread for all, which sleeps until the first of them is due; nothing wakes it for those that are in time.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[int, float] = {}
        self._thread: threading.Thread | None = None
        self._is_idle = True

    def begin(self) -> None:
        """Start the thread, unless it runs."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
                self._thread.start()

    @contextlib.contextmanager
    def for_process(self, pid: int) -> Generator[None]:
        """While the body waits for it. Its number stays its own: a traced process that has ended is there until that is seen."""
        self.begin()
        with self._changed:
            self._due[pid] = time.monotonic() + PATIENCE_S
            if self._is_idle:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._due[pid]

    def _run(self) -> None:
        with self._changed:
            while True:
                first = min(self._due.values(), default=math.inf)
                self._is_idle = first == math.inf
                self._changed.wait(None if first == math.inf else max(0.0, first - time.monotonic()))
                for pid, due in self._due.items():
                    if due <= time.monotonic():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                        self._due[pid] = math.inf


_patience = _Patience()


def prepare() -> None:
    """Start what holding needs, from a thread that is in no other namespaces than this process: it would keep them alive."""
    _patience.begin()


def trial() -> tuple[str, str]:
    """Why this machine lets us hold no process, and why it tells no filters; each empty if it does. Tries it on a child."""
    with subprocess.Popen(_TRIED, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            with Held(child.pid) as held:
                held.stop()
                try:
                    held.filters()
                except OSError as error:
                    return "", str(error)
            return "", ""
        except OSError as error:
            return str(error), ""
        finally:
            child.kill()
