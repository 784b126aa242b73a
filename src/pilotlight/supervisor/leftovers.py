"""What a platform that was killed outright leaves behind: found by its run directory's name, removed without harm to anything else.

No file is deleted below a mount point: through a mount, deleting would reach a volume.
"""

import asyncio
import ctypes
import os
import select
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from pilotlight.config import SETTINGS_FILE, Settings
from pilotlight.core.errors import WrongState

GRACE_S = 12.0  # orphans end by themselves at the supervisor's death; the node takes its time with containers
KILL_WAIT_S = 5.0
MNT_DETACH = 2  # linux/fs.h

_libc = ctypes.CDLL(None, use_errno=True)


def processes_of(settings: Settings) -> list[int]:
    """The processes started for this platform by a supervisor: their command line ends with its settings."""
    marker = os.fsencode(settings.run_dir / SETTINGS_FILE)
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        if marker in arguments and b"--settings" in arguments and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def _wait_until_gone(pidfds: Sequence[int], limit_s: float) -> bool:
    waiting, deadline = set(pidfds), time.monotonic() + limit_s
    poller = select.poll()
    for fd in waiting:
        poller.register(fd, select.POLLIN)
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        for fd, _ in poller.poll(left_s * 1000):
            poller.unregister(fd)
            waiting.discard(fd)
    return not waiting


def end_processes(pids: Sequence[int], *, grace_s: float = GRACE_S) -> None:
    """End processes and wait for their end: SIGTERM, after the grace SIGKILL. Those already gone are fine."""
    pidfds = [fd for pid in pids if (fd := open_process(pid)) is not None]
    try:
        end_opened(pidfds, grace_s=grace_s)
    finally:
        for fd in pidfds:
            os.close(fd)


def open_process(pid: int) -> int | None:
    """A pidfd, which goes on meaning this process whatever becomes of its number; None when it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def end_opened(pidfds: Sequence[int], *, grace_s: float) -> None:
    """As `end_processes`, for pidfds, which stay open."""
    for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
        for fd in pidfds:
            _send(fd, number)
        if _wait_until_gone(pidfds, limit_s):
            return


def _send(pidfd: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


def mounts_below(*roots: Path) -> list[Path]:
    """Mount points at or below these directories, deepest first."""
    found: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if any(point == root or root in point.parents for root in roots):
            found.append(point)
    return found[::-1]


def remove_run_dir(settings: Settings) -> None:
    """Unmount what is below the run directory and delete it. Raises WrongState if a mount stays: then nothing is deleted."""
    for point in mounts_below(settings.run_dir):
        _libc.umount2(os.fsencode(point), MNT_DETACH)
    if remaining := mounts_below(settings.run_dir):
        raise WrongState(
            f"{remaining[0]} can't be unmounted, so {settings.run_dir} was left in place; run: umount -l {remaining[0]}"
        )
    shutil.rmtree(settings.run_dir, ignore_errors=True)


def has_containers(settings: Settings) -> bool:
    """Whether a node agent left a network or mounts; after an orderly end it did not."""
    return Path("/sys/class/net", settings.bridge_name).exists() or bool(mounts_below(settings.run_dir, settings.node_dir))


def sweep_containers(settings: Settings) -> None:
    """Remove containers, mounts, cgroups and network of a node agent that was killed: opening its runtime anew sweeps them away."""
    # Imported here: only this rare path needs the node agent's code.
    from pilotlight.node.runtime import Runtime

    async def open_and_close() -> None:
        runtime = Runtime(settings.model_copy(update={"warm_starts": False}))
        await runtime.open()
        await runtime.close()

    asyncio.run(open_and_close())
