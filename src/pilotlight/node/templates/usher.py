"""Network namespaces that belong to a template's user namespace, so that its children may enter them.

A template can't make them itself (see `confinement`). A small shell of the host's, inside the template's user namespace and nothing
else of it, makes one at a time for as long as the agent looks at it. Its calls block: use them on a thread.
"""

import os
import subprocess

from pilotlight.node.templates.channel import TemplateFault

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
            line = self._shell.stdout.readline()
            if not line:
                raise TemplateFault("No network namespace can be made for it; `unshare` and `nsenter` of util-linux are needed.")
            fd = os.open(f"/proc/{int(line)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._shell.stdin.write(b"\n")
        except OSError as error:
            raise TemplateFault(f"No network namespace can be made for it: {error}.") from error
        return fd

    def close(self) -> None:
        """End the shell. Safe to repeat."""
        self._shell.kill()
        self._shell.communicate()
