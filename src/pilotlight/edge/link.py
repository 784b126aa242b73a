"""The one stream between this edge and the server: routes and containers come in, demand and what has been served go out.

Invariant: what this edge knows stays as it is while the server is away, and requests are served by it. A new stream begins with the
demand there is, and the server's first frame holds all that it knows.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import structlog

from pilotlight.core.errors import BadCredentials
from pilotlight.wire.frames import Frames, connect
from pilotlight.wire.platform_pb2 import (
    EdgeCommand,
    EdgeEvent,
    EdgeHello,
    FromEdge,
    ToEdge,
    WebLoad,
    WebRequest,
    WebRequests,
)

log = structlog.get_logger()

LOADS_DELAY_S = 0.02  # changes of demand within it are told in one
REQUESTS_DELAY_S = 0.2
REQUESTS_KEPT = 20_000  # of those that have ended, while the server is away
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 1.0

OnCommands = Callable[[Sequence[EdgeCommand], bool], None]


class Link:
    """Holds the stream for as long as it runs. `on_commands` gets what a frame says, and whether it is the first: that is whole."""

    def __init__(
        self,
        path: Path,
        token: str,
        on_commands: OnCommands,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._token = token
        self._on_commands = on_commands
        self._sleep = sleep
        self._loads: Callable[[], Iterable[WebLoad]] = list
        self._load: Callable[[str], tuple[WebLoad, float]] = lambda function_id: (WebLoad(function_id=function_id), 0.0)
        self._changed: set[str] = set()
        self._ended: deque[WebRequest] = deque(maxlen=REQUESTS_KEPT)
        self._answers: list[EdgeEvent] = []  # to commands of this stream
        self._is_due = False  # to tell of requests that have ended
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self.is_up = asyncio.Event()

    def ask(self, loads: Callable[[], Iterable[WebLoad]], load: Callable[[str], tuple[WebLoad, float]]) -> None:
        """Where the numbers are: all there are; those of a function, and the seconds after which to say them again (0: never)."""
        self._loads, self._load = loads, load

    def load_changed(self, function_id: str, is_urgent: bool) -> None:
        """The numbers of a function have changed."""
        self._changed.add(function_id)
        if is_urgent:
            self._wake.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOADS_DELAY_S, self._tell_loads)

    def keep(self, request: WebRequest) -> None:
        """A request has ended."""
        if not self._ended:
            asyncio.get_running_loop().call_later(REQUESTS_DELAY_S, self._tell_requests)
        self._ended.append(request)

    def answer(self, event: EdgeEvent) -> None:
        """Tell what became of a command; forgotten with the stream, since the next one begins with all there is."""
        self._answers.append(event)
        self._wake.set()

    async def run(self) -> None:
        """Connect, and again when the stream breaks, until cancelled."""
        delay_s = 0.0
        while True:
            try:
                frames = await connect(self._path, ToEdge)
                try:
                    await self._converse(frames)
                finally:
                    frames.close()
                why = "the server closed it"
            except (OSError, BadCredentials) as error:
                why = str(error) or type(error).__name__
            delay_s = FIRST_DELAY_S if self.is_up.is_set() else min(LONGEST_DELAY_S, max(FIRST_DELAY_S, delay_s * 2))
            self.is_up.clear()
            log.warning("link_down", cause=why, retry_in_s=delay_s)
            await self._sleep(delay_s)

    async def _converse(self, frames: Frames[ToEdge]) -> None:
        self._changed.clear()
        self._answers.clear()
        hello = EdgeHello(token=self._token, loads=self._loads())
        await frames.send(FromEdge(events=[EdgeEvent(hello=hello)]))
        message = await frames.receive()
        if message is None:
            return
        if message.commands[0].HasField("refused"):
            raise BadCredentials(message.commands[0].refused.why)
        self._on_commands(message.commands[1:], True)
        log.info("link_up", commands=len(message.commands) - 1)
        self.is_up.set()
        receiving = asyncio.get_running_loop().create_task(self._receive(frames))
        sending = asyncio.get_running_loop().create_task(self._send(frames))
        try:
            await asyncio.wait((receiving, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (receiving, sending):
                task.cancel()
            ends = await asyncio.gather(receiving, sending, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _receive(self, frames: Frames[ToEdge]) -> None:
        while (message := await frames.receive()) is not None:
            self._on_commands(message.commands, False)

    async def _send(self, frames: Frames[ToEdge]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if events := self._take():
                await frames.send(FromEdge(events=events))

    def _take(self) -> list[EdgeEvent]:
        events, self._answers = self._answers, []
        for function_id in self._changed:
            load, again_after_s = self._load(function_id)
            events.append(EdgeEvent(load=load))
            if again_after_s:
                asyncio.get_running_loop().call_later(again_after_s, self.load_changed, function_id, True)
        self._changed.clear()
        if self._is_due and self._ended:
            events.append(EdgeEvent(requests=WebRequests(requests=self._ended)))
            self._ended.clear()
        self._is_due = False
        return events

    def _tell_loads(self) -> None:
        self._timer = None
        self._wake.set()

    def _tell_requests(self) -> None:
        self._is_due = True
        self._wake.set()
