"""One container as the rest of the agent sees it: its handle while it runs.

Owns one invariant: a handle never signals a process that is not its own, even after the pid was reused (it holds a pidfd).
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from pilotlight.core.containers import Exit
from pilotlight.node.output import OutputPipe

STUCK_S = 10.0  # after SIGKILL, before whoever may hold it back is ended


class Container:
    """A running container.

    `pid` is its init's on this machine; `setup_ms` says how long each step of its start took; `address` is that of its network
    interface, empty where it has none; `is_warm`: it was forked from a template, and told what it is at `told_ns`, since the epoch;
    `on_answer` is called when it has answered for the first time, `on_stuck` when it was killed a while ago and is still there.
    """

    def __init__(
        self,
        container_id: str,
        pid: int,
        pidfd: int,
        setup_ms: Mapping[str, float],
        pipes: Sequence[OutputPipe] = (),
        address: str = "",
        *,
        is_warm: bool = False,
        told_ns: int = 0,
        on_answer: Callable[[], object] = lambda: None,
        on_stuck: Callable[[], object] = lambda: None,
    ) -> None:
        self.container_id = container_id
        self.pid = pid
        self.setup_ms = setup_ms
        self.address = address
        self.is_warm = is_warm
        self.told_ns = told_ns
        self._pidfd = pidfd
        self._pipes = pipes
        self._on_answer = on_answer
        self._on_stuck = on_stuck
        self._stuck: asyncio.TimerHandle | None = None
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def wait(self) -> Exit:
        """Until its processes are gone and all its output was handed on. Any number of callers may wait."""
        return await asyncio.shield(self._exit)

    def signal(self, signum: int) -> None:
        """Send to its init, which passes it to the program. Does nothing once it has ended."""
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)
            if signum == signal.SIGKILL and self._stuck is None:
                self._stuck = asyncio.get_running_loop().call_later(STUCK_S, self._on_stuck)

    async def kill(self) -> None:
        """End all of its processes at once (they share a pid namespace, whose init this kills), and wait until they are gone."""
        self.signal(signal.SIGKILL)
        await self.wait()

    def answered(self) -> None:
        """It has answered its first input."""
        self._on_answer()

    def hold_output(self, held: bool) -> None:
        """Leave what it prints in its pipes, so that it has to wait once they are full; or read on."""
        for pipe in self._pipes:
            pipe.hold(held)

    def read_output(self) -> None:
        """Hand on at once the whole lines that it has printed so far, unless they are held."""
        for pipe in self._pipes:
            pipe.read_now()

    def on_end(self, call: Callable[[Exit], object]) -> None:
        """Have this called when the container is over."""
        self._exit.add_done_callback(lambda done: None if done.cancelled() else call(done.result()))

    def report(self, ended: Exit) -> None:
        """For the runtime: the container is over."""
        os.close(self._pidfd)
        if self._stuck is not None:
            self._stuck.cancel()
        self._exit.set_result(ended)
