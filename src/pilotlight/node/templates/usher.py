"""Network namespaces that belong to a template's user namespace, so that its children may enter them.

A template can't make them itself (see `confinement`). A small shell of the host's, inside the template's user namespace and nothing
else of it, makes one at a time for as long as the agent looks at it. Its calls block: use them on a thread.
"""

import contextlib
import os
import select
import signal
import subprocess

from pilotlight.node.templates.channel import TemplateFault

ANSWER_TIMEOUT_S = 10.0  # the kernel may be busy with the ends of other namespaces
_SERVE = "while read -r _; do unshare --net sh -c 'echo $$; read -r _' || exit 1; done"


class Usher:
    """The shell in one template's user namespace."""

    def __init__(self, pid: int, name: str) -> None:
        """`pid`: a process of that user namespace; `name`: for lists of processes."""
        command = ("nsenter", f"--user=/proc/{pid}/ns/user", "sh", "-c", _SERVE, name)
        self._shell = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True
        )

    def make(self) -> int:
        """A descriptor of a new network namespace in which nothing runs. Raises TemplateFault."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        try:
            self._shell.stdin.write(b"\n")
            if not _has_answer(self._shell.stdout.fileno()):
                self._kill()
                raise TemplateFault("No network namespace was made for it in time.")
            line = self._shell.stdout.readline()
            if not line:
                raise TemplateFault("No network namespace can be made for it; `unshare` and `nsenter` of util-linux are needed.")
            try:
                return os.open(f"/proc/{int(line)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            finally:  # else it would wait with this one, and we for the next
                with contextlib.suppress(BrokenPipeError):  # it has ended, and will be found so
                    self._shell.stdin.write(b"\n")
        except OSError as error:
            raise TemplateFault(f"No network namespace can be made for it: {error}.") from error

    def close(self) -> None:
        """End the shell, and what it began. Safe to repeat."""
        self._kill()
        self._shell.communicate()

    def _kill(self) -> None:
        if self._shell.returncode is None:  # nobody has waited for it: its number is its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGKILL)


def _has_answer(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(ANSWER_TIMEOUT_S * 1000))
