"""Holding another process still: stopped by ptrace(2) where a check needs it, and let go as if nothing had been.

Owns one invariant: whoever is held when this agent dies is killed with it, and never goes on unchecked. To the kernel a *thread* is
the tracer, so all calls about one process come from the thread that began. Sources: ptrace(2), seccomp(2), waitid(2).
"""

import contextlib
import ctypes
import errno
import os
import signal
import subprocess

from pilotlight.node import syscalls

_SEIZE, _INTERRUPT, _CONT, _DETACH, _GET_FILTER = 0x4206, 0x4207, 7, 17, 0x420C
_OPTION_TRACE_EXEC, _OPTION_EXIT_KILL = 1 << 4, 1 << 20
_EVENT_EXEC, _EVENT_STOP = 4, 128
_TRIED = ("sleep", "60")
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
        """Stop it where it is; a system call in which it waits begins again when it goes on. Raises ProcessLookupError."""
        if not self._stop():
            raise ProcessLookupError(errno.ESRCH, f"process {self.pid} has ended")

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
        """Let it go on until this event; what it is signalled meanwhile reaches it. False once it has ended."""
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
