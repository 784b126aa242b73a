"""What an attacker inside a container tries, one function for each way out; standard library only, since it runs in any image.

A probe makes attempts and reports of each whether it reached something that is not the container's own, or how it was refused. It
runs in a process of its own, which it may spoil. `run` is called in the container; `control` on the host shows that the attempts
are real: what is refused in a container succeeds there.
"""

import errno
import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PROBE_S = 40.0  # after which a probe is killed, and has failed
GATES = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT)  # a call that was refused before it looked at its arguments


@dataclass
class Surroundings:
    """What the attacker is told of the things that it must not reach, so that it need not guess."""

    files: list[str] = field(default_factory=list)  # of the host
    pids: list[int] = field(default_factory=list)  # of the host
    abstract: list[str] = field(default_factory=list)  # names of unix sockets of the host, and of another container
    addresses: list[str] = field(default_factory=list)  # of the host
    ports: list[int] = field(default_factory=list)  # on which something listens there
    neighbour: str = ""  # another container's address; it listens on the port
    neighbour_port: int = 0
    variables: list[str] = field(default_factory=list)  # of the platform's processes
    volume: str = ""  # where the attacker has one of its own
    other_volumes: list[str] = field(default_factory=list)  # ids
    message_keys: list[int] = field(default_factory=list)  # of System V shared memory on the host


class Attempts:
    """The report of one probe, written as it goes, so that nothing is lost if the probe dies."""

    def __init__(self, surroundings: Surroundings, write: Callable[[str, str], None]) -> None:
        self.around = surroundings
        self._write = write

    def reached(self, what: str) -> None:
        """Something that is not the container's own."""
        self._write("reached", what)

    def refused(self, what: str) -> None:
        """A way that is closed."""
        self._write("refused", what)

    def denied(self, what: str, act: Callable[[], Any]) -> None:
        """An act that must fail; whatever it returns, it reached something."""
        try:
            result = act()
        except OSError as error:
            self.refused(f"{what}: {errno.errorcode.get(error.errno or 0, error)}")
        except ValueError as error:  # `resource` calls a refusal so
            self.refused(f"{what}: {error}")
        else:
            self.reached(f"{what}: {result!r}"[:300])

    def finds(self, what: str, act: Callable[[], Any]) -> None:
        """An act that may succeed, and must find nothing: what it returns is falsy."""
        try:
            found = act()
        except OSError as error:
            self.refused(f"{what}: {errno.errorcode.get(error.errno or 0, error)}")
        else:
            (self.reached if found else self.refused)(f"{what}: {found!r}"[:300])

    def gate(self, what: str, act: Callable[[], Any]) -> None:
        """A system call with senseless arguments: any answer but a plain refusal means that the kernel looked at them."""
        try:
            result = act()
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, str(error))
            (self.refused if error.errno in GATES else self.reached)(f"{what}: {name}")
        else:
            self.reached(f"{what}: {result!r}"[:300])


Probe = Callable[[Attempts], None]
PROBES: dict[str, Probe] = {}
NOT_ON_HOSTS: set[str] = set()  # those that would harm it, or that succeed nowhere: nothing to compare with
IN_OWN_KERNEL: set[str] = set()  # those that a kernel of the container's own answers, without any harm


def probe(*, on_host: bool = True, own_kernel: bool = False) -> Callable[[Probe], Probe]:
    """Marks a probe; `on_host`: it can show on the host that its attempts are real; `own_kernel`: gVisor answers for itself."""

    def mark(function: Probe) -> Probe:
        assert function.__name__ not in PROBES, function.__name__
        PROBES[function.__name__] = function
        if not on_host:
            NOT_ON_HOSTS.add(function.__name__)
        if own_kernel:
            IN_OWN_KERNEL.add(function.__name__)
        return function

    return mark


def run(name: str, surroundings: Surroundings) -> dict[str, Any]:
    """Run a probe in a process of its own: what it reached, what it was refused, and its error if it failed itself."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _be_probe(PROBES[name], surroundings, write)
    os.close(write)
    report: dict[str, Any] = {"reached": [], "refused": [], "error": ""}
    for kind, text in _lines(read, time.monotonic() + PROBE_S):
        if kind == "error":
            report["error"] = text
        else:
            report[kind].append(text)
    if os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.2)  # it closed the pipe as the last thing it does
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return report


def _lines(descriptor: int, deadline: float) -> list[tuple[str, str]]:
    data = b""
    while True:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.close(descriptor)
            return [*_parsed(data), ("error", f"it did not end within {PROBE_S} s")]
        if not (piece := os.read(descriptor, 65536)):
            os.close(descriptor)
            return _parsed(data)
        data += piece


def _parsed(data: bytes) -> list[tuple[str, str]]:
    return [(entry[0], entry[1]) for entry in map(json.loads, data.split(b"\n")[:-1])]


def _be_probe(act: Probe, surroundings: Surroundings, descriptor: int) -> None:
    def write(kind: str, text: str) -> None:
        os.write(descriptor, json.dumps([kind, text]).encode() + b"\n")

    try:
        os.setsid()
        act(Attempts(surroundings, write))
    except BaseException:  # noqa: BLE001 - told to whoever reads the report
        write("error", traceback.format_exc()[-2000:])
    finally:
        os._exit(0)


def load() -> dict[str, Probe]:
    """All probes."""
    from . import files, kernel, network, processes, system  # noqa: F401 - they mark themselves

    return PROBES
