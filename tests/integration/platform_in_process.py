"""A whole platform in a thread: the real server, edge and node agent, with plain processes as containers."""

import asyncio
import contextlib
import random
import shutil
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from support.simulated_runtime import SimulatedRuntime, simulated_agent, simulated_settings

from pilotlight.server import Server

DEADLINE_S = 60
T = TypeVar("T")


class Platform:
    """Starts with `start`, ends with `stop`; `url` and `token` are for the client."""

    def __init__(self, **values: object) -> None:
        self._api = socket.create_server(("127.0.0.1", 0))
        self.settings = simulated_settings(api=f"127.0.0.1:{self._api.getsockname()[1]}", synchronous="NORMAL", **values)
        self.server: Server
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        return f"http://{self.settings.api}"

    @property
    def token(self) -> tuple[str, str]:
        token_id, _, secret = self.settings.first_token_path.read_text().strip().partition(":")
        return token_id, secret

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="platform")
        self._thread.start()
        assert self._ready.wait(DEADLINE_S), "the platform did not start"
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        if not self._failure:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(DEADLINE_S)
        self._api.close()
        shutil.rmtree(self.settings.state)
        assert not self._thread.is_alive(), "the platform did not stop"
        if self._failure:
            raise self._failure

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a use case in the server's own loop."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(DEADLINE_S)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - raised again by whoever started the platform
            self._failure = failure
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        settings = self.settings
        paths = (settings.inner_socket_path, settings.nodes_socket_path, settings.edges_socket_path)
        inner, nodes, edges = (_listening(path) for path in paths)
        self.server = await Server.open(self.settings)
        await self.server.listen(self._api.dup(), inner, nodes, edges)
        containers = self.settings.state / "c"
        runtime = SimulatedRuntime(containers)
        agent = simulated_agent(self.settings, containers, runtime)
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.push_async_callback(self.server.close)
            work = [asyncio.create_task(loop) for loop in self.server.loops(random.Random(0))]
            work.append(asyncio.create_task(agent.run()))
            await agent.connected.wait()
            self._ready.set()
            await self._stopping.wait()
            for task in reversed(work):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await runtime.close()


def _listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener
