"""Processes of a build: each in a container over the layers so far.

Invariant: a container of a build never outlives the task that started it, and what it leaves in its layer holds none of our own
mount points.
"""

import asyncio
import codecs
import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight.core.containers import Bind, ContainerHandle, ContainerRuntime, ContainerSpec, Exit
from pilotlight.core.errors import PilotlightError
from pilotlight.images.surroundings import GUEST_DIR, Surroundings

LAST_LINES = 20
LAST_LINE_LENGTH = 2000
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Say = Callable[[int, str], None]
"""Called with (file descriptor 1 or 2, text as it came)."""


_serial = itertools.count()  # of the containers of all builds of this process


class StepFailed(PilotlightError):
    """A command of the build ended with something else than 0."""


@dataclass(frozen=True)
class Command:
    """One process: `layers` lowest first; `upper`, where given, is the directory that receives what it writes."""

    layers: tuple[Path, ...]
    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str = "/"
    user: str = ""
    upper: Path | None = None
    block_network: bool = False
    binds: tuple[Bind, ...] = ()
    gpus: tuple[str, ...] = ()  # uuids


class Steps:
    """Runs the processes of builds. Limits of 0 mean none."""

    def __init__(self, runtime: ContainerRuntime, surroundings: Surroundings, memory_limit_mib: int = 0) -> None:
        self._runtime = runtime
        self._surroundings = surroundings
        self._memory_limit_mib = memory_limit_mib

    async def run(self, command: Command, say: Say) -> tuple[Exit, str]:
        """Run to the end, output passed on as it comes; returns how it ended and the last lines. If cancelled, it is killed."""
        output = _Output(say)
        spec = ContainerSpec(
            container_id=f"build-{os.getpid()}-{next(_serial)}",
            layers=command.layers,
            args=command.args,
            env={"PATH": DEFAULT_PATH, **self._surroundings.container_env(), **command.env},
            cwd=command.cwd or "/",
            user=command.user,
            binds=(*self._surroundings.container_binds(), *command.binds),
            memory_limit_mib=self._memory_limit_mib,
            block_network=command.block_network,
            upper=command.upper,
            gpus=command.gpus,
        )
        container = await self._runtime.start(spec, output.receive)
        try:
            ended = await container.wait()
        except BaseException:
            await asyncio.shield(_end(container))
            raise
        output.close()
        if command.upper is not None:
            await asyncio.to_thread(remove_mount_points, command.upper, command.layers)
        return ended, output.last_lines()

    async def ask(self, command: Command, *, most: int, timeout_s: float) -> tuple[Exit, str]:
        """Run it for what it prints to its standard output, `most` bytes at most; returns how it ended, too.

        Raises StepFailed where it takes longer: the image's own programs run there, which may do what they like.
        """
        said = Said(most)
        try:
            async with asyncio.timeout(timeout_s):
                ended, _ = await self.run(command, said.receive)
        except TimeoutError as error:
            raise StepFailed(f"{command.args[0]} of the image took more than {timeout_s:.0f} s.") from error
        return ended, said.text

    async def check(self, command: Command, title: str, say: Say) -> None:
        """Run it; errors: StepFailed, which says what failed, how, and what it said last."""
        ended, last_lines = await self.run(command, say)
        if not ended.code:
            return
        how = f"ended with exit code {ended.code}"
        if ended.oom_killed:
            how = f"ran out of memory ({ended.peak_memory_bytes >> 20} MiB) and was killed (exit code {ended.code})"
        reason = f" ({ended.message})" if ended.message else ""
        said = f" Its last output:\n{last_lines}" if last_lines else " It wrote nothing."
        raise StepFailed(f"The build step {title!r} {how}{reason}.{said}")


class Said:
    """What a container printed, up to a limit in bytes: from the first piece on that is too much, nothing is heard."""

    def __init__(self, limit: int) -> None:
        self._pieces: list[str] = []
        self._left = limit

    def receive(self, fd: int, text: str) -> None:
        if fd != 1:
            return
        self._left -= len(text.encode())
        if self._left >= 0:
            self._pieces.append(text)

    @property
    def text(self) -> str:
        return "".join(self._pieces)


async def _end(container: ContainerHandle) -> None:
    await container.kill()
    await container.wait()


class _Output:
    """Bytes of two streams, as text: a character may come in two pieces."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._decoders = {fd: codecs.getincrementaldecoder("utf-8")("replace") for fd in (1, 2)}
        self._lines: deque[str] = deque([""], maxlen=LAST_LINES + 1)

    def receive(self, fd: int, data: bytes, at_ns: int) -> None:
        self._tell(fd, self._decoders[fd].decode(data))

    def close(self) -> None:
        for fd, decoder in self._decoders.items():
            self._tell(fd, decoder.decode(b"", final=True))

    def last_lines(self) -> str:
        return "\n".join(self._lines).strip("\n")

    def _tell(self, fd: int, text: str) -> None:
        if not text:
            return
        self._say(fd, text)
        first, *rest = text.split("\n")
        self._lines[-1] = (self._lines[-1] + first)[-LAST_LINE_LENGTH:]
        self._lines.extend(line[-LAST_LINE_LENGTH:] for line in rest)


def remove_mount_points(upper: Path, layers: tuple[Path, ...]) -> None:
    """Take away what was made only to mount something on it: our own directory, and empty files that a runtime puts there."""
    if any((upper / name).is_symlink() for name in ("run", "etc")):
        return  # it leads who knows where on this machine
    ours = upper / GUEST_DIR.lstrip("/")
    if ours.is_dir() and not ours.is_symlink():
        for entry in ours.iterdir():
            entry.unlink()
        ours.rmdir()
    for name in ("etc/resolv.conf", "etc/hosts", "etc/hostname"):
        path = upper / name
        if path.is_file() and not path.is_symlink() and path.stat().st_size == 0:
            path.unlink()
    for name in ("run", "etc"):
        directory = upper / name
        if directory.is_dir() and any((layer / name).is_dir() for layer in layers):
            with contextlib.suppress(OSError):
                directory.rmdir()  # only where nothing else is in it
