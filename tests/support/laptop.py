"""Another machine on the network, as far as a client can tell: a network namespace with one cable to this machine."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SERVER = "172.29.77.1"
LAPTOP = "172.29.77.2"


@dataclass(frozen=True)
class Laptop:
    """`hosts` in its /etc/hosts lead to this machine."""

    name: str

    def run(self, *command: str, environment: Mapping[str, str], timeout_s: float = 240.0) -> str:
        """What a command prints there; fails if it fails."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def laptop(*hosts: str) -> Iterator[Laptop]:
    """A machine at LAPTOP that reaches this one at SERVER, and nothing else."""
    name = f"pl-laptop-{os.getpid()}"
    cable = f"pl-t{os.getpid()}"[:15]
    files = Path("/etc/netns") / name
    _ip("netns", "add", name)
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{SERVER}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        for command in (("addr", "add", f"{LAPTOP}/30", "dev", "eth0"), ("link", "set", "eth0", "up"), ("link", "set", "lo", "up")):
            _ip("-n", name, *command)
        files.mkdir(parents=True)
        (files / "hosts").write_text(f"127.0.0.1 localhost\n{SERVER} {' '.join(hosts)}\n")
        (files / "nsswitch.conf").write_text("hosts: files\n")
        yield Laptop(name)
    finally:
        _ip("netns", "del", name)
        subprocess.run(["ip", "link", "del", cable], check=False, capture_output=True)  # gone with its other end, usually
        shutil.rmtree(files, ignore_errors=True)
        with contextlib.suppress(OSError):
            files.parent.rmdir()  # only if it is empty
