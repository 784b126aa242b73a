"""Messages between the agent and a template, or a child of it: JSON in packets, with descriptors.

Owns one invariant: what comes from the other end is never trusted to be well-formed, short, or in time; who sent it is told by the
kernel. All calls block, with a limit. Sources: unix(7), SCM_CREDENTIALS and SCM_RIGHTS.
"""

import array
import contextlib
import json
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilotlight.core.errors import PilotlightError
from pilotlight.node.templates.patience import Patience

MESSAGE_BYTES = 160 * 1024  # a packet must fit into the socket's buffer
_CREDENTIALS = struct.Struct("iII")


class TemplateFault(PilotlightError):
    """A template, or a child of it, did not do what it should; the container starts the ordinary way."""


class LoadFault(TemplateFault):
    """What a template imported ended it, or left it as nothing should be forked from."""


class Channel:
    """One end of a pair of sockets for packets; `patience` is with whoever has the other."""

    def __init__(self, ours: socket.socket, patience: Patience) -> None:
        self.patience = patience
        self._socket = ours
        self._socket.settimeout(patience.limit_s)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.other_end = ""  # as /proc/PID/fd shows it to whoever has it

    @classmethod
    def pair(cls, patience: Patience) -> "tuple[Channel, socket.socket]":
        """Ours, and the other end to give away."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = cls(ours, patience)
        channel.other_end = link_of(theirs.fileno())
        return channel, theirs

    def close(self) -> None:
        self._socket.close()

    def hang_up(self) -> None:
        """Have whoever waits for a message here wait no more, however many hold the other end. Any thread may call."""
        with contextlib.suppress(OSError):  # it is closed, or was hung up
            self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Raises TemplateFault where nobody takes it."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([json.dumps(message).encode()], ancillary)
        except OSError as error:
            raise TemplateFault(f"It takes no messages: {error or type(error).__name__}.") from error

    def receive(self, wanted: str = "") -> "tuple[dict[str, Any], int]":
        """The next message, which must have the key `wanted` if one is named, and its sender's pid on this machine.

        Raises TemplateFault.
        """
        if not self.patience.awaits(self._socket.fileno()):
            raise TemplateFault(f"It did not answer in time ({wanted or 'anything'}).")
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise TemplateFault(f"It did not answer ({wanted or 'anything'}): {error or type(error).__name__}.") from error
        pid = 0
        for level, kind, body in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _CREDENTIALS.unpack(body)[0]
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
                for fd in fds:
                    os.close(fd)  # nobody is asked for any
        message = _parsed(data)
        if wanted and wanted not in message:
            raise TemplateFault(f"It ended before it said {wanted!r}: {message.get('error') or 'no reason was given'}.")
        return message, pid

    def last_words(self) -> dict[str, Any]:
        """A message that is there already; empty if there is none."""
        try:
            self._socket.setblocking(False)
            return _parsed(self._socket.recv(MESSAGE_BYTES))
        except OSError:
            return {}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        message = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        message = None
    return message if isinstance(message, dict) else {"error": "what it said can't be understood"}


def link_of(fd: int) -> str:
    """An open file of ours as /proc/PID/fd shows it: "pipe:[7]"."""
    return str(Path(f"/proc/self/fd/{fd}").readlink())
