"""Programs of the host that do our work (tar, cp, skopeo, uv, mmdebstrap).

Invariant: a program never outlives the task that waits for it.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STOP_GRACE_S = 10.0


@dataclass(frozen=True)
class Finished:
    """How a program ended, and what it wrote."""

    code: int
    output: str
    errors: str

    def last_words(self, lines: int = 3) -> str:
        """The end of what it said, on one line."""
        return "; ".join(line.strip() for line in (self.errors.strip() or self.output.strip()).splitlines()[-lines:])


async def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float | None = None) -> Finished:
    """Run it to its end; if that takes too long or the caller is cancelled, it is ended first.

    Errors: FileNotFoundError where it is not installed, TimeoutError.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            await asyncio.shield(_stop(process))
    return Finished(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))


async def _stop(process: asyncio.subprocess.Process) -> None:
    # Asked first: mmdebstrap, for one, has mounts to clear.
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            continue
