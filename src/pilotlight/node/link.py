"""The one stream between this node and the server.

Invariant: commands are carried out in the order of their arrival; a broken stream is made anew at once, then at longer intervals,
and begins with what this node holds. Nothing but that hello is sent before the server's Welcome: what a refused stream would have
swallowed stays in the outbox.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from pilotlight.config import Settings
from pilotlight.core.errors import BadCredentials, PilotlightError
from pilotlight.node.outbox import Outbox
from pilotlight.objects import load_or_create_key
from pilotlight.wire import platform_pb2
from pilotlight.wire.frames import Frames, connect

log = structlog.get_logger()

NODE_TOKEN_HEADER = "x-pilotlight-node-token"
NODE_TOKEN_FILE = "node.token"
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 1.0
LASTED_S = 1.0  # a stream that held for so long was not refused: the next is made at once

NodeFrames = Frames[platform_pb2.ToNode]
OnCommand = Callable[[platform_pb2.NodeCommand], None]


def node_token(settings: Settings) -> str:
    """The secret that this node shares with the server, in hex."""
    return load_or_create_key(settings.keys_dir / NODE_TOKEN_FILE).hex()


class Link:
    """Sends what is in the outbox, and hands on commands, for as long as it runs.

    `hello` says what this node holds; `welcomed` is called on each new stream with the tasks that the server does not know, before
    anything else is sent.
    """

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        hello: Callable[[], platform_pb2.NodeHello],
        welcomed: Callable[[Sequence[str]], None],
        on_command: OnCommand,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._socket = settings.nodes_socket_path
        self._token = node_token(settings)
        self._outbox = outbox
        self._hello = hello
        self._welcomed = welcomed
        self._on_command = on_command
        self._sleep = sleep
        self._up_since: float | None = None

    async def run(self) -> None:
        """Hold the stream; ends when the outbox is closed and empty, or by cancellation."""
        loop = asyncio.get_running_loop()
        delay_s = 0.0
        while True:
            try:
                frames = await connect(self._socket, platform_pb2.ToNode)
                try:
                    await self._converse(frames)
                finally:
                    frames.close()
                why = "the server closed it"
            except (PilotlightError, OSError) as error:
                why = str(error) or type(error).__name__
            if self._outbox.closed:
                return
            if self._up_since is not None and loop.time() - self._up_since > LASTED_S:
                delay_s = 0.0
            log.warning("link_down", cause=why, retry_in_s=delay_s)
            self._up_since = None
            if delay_s:
                await self._sleep(delay_s)
            delay_s = min(LONGEST_DELAY_S, max(FIRST_DELAY_S, delay_s * 2))

    async def _converse(self, frames: NodeFrames) -> None:
        hello = self._hello()
        hello.token = self._token
        await frames.send(platform_pb2.FromNode(events=[platform_pb2.NodeEvent(hello=hello)]))
        message = await frames.receive()
        if message is None:
            return
        self._welcome(message.commands[0])
        sending = asyncio.get_running_loop().create_task(self._send(frames))
        receiving = asyncio.get_running_loop().create_task(self._receive(frames, message))
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            if self._outbox.closed:
                await receiving  # the server reads to the end before it ends the stream
        finally:
            for task in (sending, receiving):
                task.cancel()
            ends = await asyncio.gather(sending, receiving, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def _welcome(self, command: platform_pb2.NodeCommand) -> None:
        if command.HasField("refused"):
            raise BadCredentials(command.refused.why)
        unknown = command.welcome.unknown_tasks
        log.info("link_up", unknown_tasks=list(unknown))
        self._up_since = asyncio.get_running_loop().time()
        self._welcomed(unknown)

    async def _receive(self, frames: NodeFrames, first: platform_pb2.ToNode) -> None:
        commands: Sequence[platform_pb2.NodeCommand] = first.commands[1:]
        while True:
            for command in commands:
                self._on_command(command)
            message = await frames.receive()
            if message is None:
                return
            commands = message.commands

    async def _send(self, frames: NodeFrames) -> None:
        while True:
            await self._outbox.wait()
            if events := self._outbox.take():
                try:
                    await frames.send(platform_pb2.FromNode(events=events))
                except BaseException:
                    self._outbox.put_back(events)
                    raise
            elif self._outbox.closed:
                frames.end()
                return
