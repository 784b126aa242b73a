"""Where the edge reaches the containers of this node: a socket on which each connection carries one request at a time.

Invariant: a connection is free for the next request only after both ends have said the last of this one.
"""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from pilotlight.node.web_requests import UNREAD_BYTES, EdgeFrames, WebRequest, WebRequests
from pilotlight.wire import platform_pb2
from pilotlight.wire.frames import Listener

log = structlog.get_logger()

BACKLOG = 1024


class WebTask(Protocol):
    """A container as the edge sees it."""

    web: WebRequests


class WebListener:
    """Takes requests for the tasks of `tasks`, by task id."""

    def __init__(self, path: Path, tasks: Mapping[str, WebTask]) -> None:
        self._path = path
        self._tasks = tasks
        self._listener: Listener[platform_pb2.ToTask] = Listener(platform_pb2.ToTask, self._serve, UNREAD_BYTES)

    @property
    def address(self) -> str:
        """For whoever wants to connect."""
        return f"unix:{self._path}"

    async def open(self) -> None:
        """Listen, in place of a former agent. Only this user may connect."""
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(self._path))
        self._path.chmod(0o600)  # before anyone can connect
        listening.listen(BACKLOG)
        await self._listener.start(listening)

    async def close(self) -> None:
        """End all connections; the requests on them count as given up."""
        await self._listener.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, frames: EdgeFrames) -> None:
        while (message := await frames.receive()) is not None:
            if not message.HasField("open"):
                log.warning("web_connection_refused", cause="it does not begin with a request")
                return
            try:
                is_free = await self._carry(message.open, frames)
            except DecodeError as error:
                log.warning("web_connection_refused", cause=f"a chunk that is none: {error}")
                return
            if not is_free:
                return

    async def _carry(self, opened: platform_pb2.WebOpen, frames: EdgeFrames) -> bool:
        """One request to its end; returns whether the connection can carry another."""
        request = WebRequest(opened, frames)
        task = self._tasks.get(opened.task_id)
        why = f"Container {opened.task_id} is not here." if task is None else task.web.admit(request)
        if task is None or why:
            request.refuse(why)
            return await _read_out(frames, request)
        give_up = _giving_up(task.web, request)
        frames.closed.add_done_callback(give_up)
        try:
            if not await _read_out(frames, request):
                return False
            await request.over()
        finally:
            frames.closed.remove_done_callback(give_up)
            task.web.abandon(request)  # unless it has ended
        return not frames.closed.done()


def _giving_up(requests: WebRequests, request: WebRequest) -> Callable[[object], None]:
    def give_up(_: object) -> None:
        requests.abandon(request)

    return give_up


async def _read_out(frames: EdgeFrames, request: WebRequest) -> bool:
    """Hand the request what comes of it; returns whether it came to its end."""
    while (message := await frames.receive()) is not None:
        if message.close:
            return True
        await request.feed(message.data_in)
    return False
