"""A server in this process, on a real loopback socket, in a thread and an event loop of its own."""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
import uvloop
from starlette.applications import Starlette

from pilotlight.control.blobs import Blobs
from pilotlight.control.dicts import Dicts
from pilotlight.control.environments import Environments
from pilotlight.control.mounts import Mounts
from pilotlight.control.network_file_systems import NetworkFileSystems
from pilotlight.control.queues import Queues
from pilotlight.control.secrets import Secrets
from pilotlight.control.tokens import Tokens
from pilotlight.control.volume_files import VolumeFiles
from pilotlight.control.volumes import Volumes
from pilotlight.core.labels import addresses_of
from pilotlight.core.reach import Edge
from pilotlight.edge.app import REFUSALS
from pilotlight.edge.blobs import Blobs as EdgeBlobs
from pilotlight.edge.volumes import Volumes as EdgeVolumes
from pilotlight.objects import KeyFile, Objects, load_or_create_key
from pilotlight.rpc.authentication import TokenAuthenticator
from pilotlight.rpc.blobs import BlobHandlers
from pilotlight.rpc.dicts import DictHandlers
from pilotlight.rpc.environments import EnvironmentHandlers
from pilotlight.rpc.framework import Service
from pilotlight.rpc.mounts import MountHandlers
from pilotlight.rpc.network_file_systems import NetworkFileSystemHandlers
from pilotlight.rpc.queues import QueueHandlers
from pilotlight.rpc.secrets import SecretHandlers
from pilotlight.rpc.volumes import VolumeHandlers
from pilotlight.rpc.workspace import WorkspaceHandlers
from pilotlight.store.database import Database, open_engine
from pilotlight.store.schema import migrate
from pilotlight.wire.listening import Server

DEADLINE_S = 60
T = TypeVar("T")


@dataclass
class UseCases:
    """The control objects of a server, for tests that look behind the RPCs."""

    database: Database
    tokens: Tokens
    environments: Environments
    mounts: Mounts
    blobs: Blobs
    secrets: Secrets
    dicts: Dicts
    queues: Queues
    volumes: Volumes
    volume_files: VolumeFiles
    network_file_systems: NetworkFileSystems

    def handlers(self, key: bytes) -> list[object]:
        return [
            WorkspaceHandlers(tokens=self.tokens, environments=self.environments, workspace="main", signing_key=key),
            EnvironmentHandlers(self.environments),
            MountHandlers(self.mounts, self.environments),
            BlobHandlers(self.blobs),
            SecretHandlers(self.secrets),
            DictHandlers(self.dicts),
            QueueHandlers(self.queues),
            VolumeHandlers(self.volumes, self.volume_files),
            NetworkFileSystemHandlers(self.network_file_systems),
        ]


async def assemble(state: Path, signing_key: bytes, edge_url: str = "http://127.0.0.1:9", synchronous: str = "NORMAL") -> UseCases:
    """The use cases over a state directory, ready to be called."""
    engine = open_engine(state / "pilotlight.db", synchronous)
    migrate(engine)
    database = Database(engine)
    objects = Objects(state / "objects")
    environments = Environments(database=database, workspace="main", image_builder_version="2025.06")
    await environments.ensure_default()
    tokens = Tokens(database=database)
    await tokens.load()
    await tokens.ensure_first(state / "token")
    volumes = Volumes(database=database, environments=environments, directory=state / "volumes")
    files = VolumeFiles(volumes=volumes, objects=objects, signing_key=signing_key, base_url=edge_url)
    mounts = Mounts(database=database, objects=objects)
    return UseCases(
        database,
        tokens,
        environments,
        mounts,
        Blobs(objects=objects, signing_key=signing_key, base_url=edge_url),
        Secrets(database=database, environments=environments, key_file=KeyFile(state / "keys" / "secrets.key")),
        Dicts(database=database, environments=environments),
        Queues(database=database, environments=environments),
        volumes,
        files,
        NetworkFileSystems(database=database, environments=environments, volumes=volumes, files=files, mounts=mounts),
    )


class ClosingServer(Server):
    """A server whose connections end with it, as they do when a process ends."""

    def __init__(self, handlers: list[Any]) -> None:
        super().__init__(handlers)
        self._connections: dict[asyncio.BaseTransport, asyncio.Event] = {}

    def _protocol_factory(self) -> Any:
        protocol = super()._protocol_factory()
        made, lost, ended = protocol.connection_made, protocol.connection_lost, asyncio.Event()

        def connection_made(transport: asyncio.BaseTransport) -> None:
            self._connections[transport] = ended
            made(transport)

        def connection_lost(error: BaseException | None) -> None:
            lost(error)
            ended.set()

        protocol.connection_made, protocol.connection_lost = connection_made, connection_lost
        return protocol

    async def end(self) -> None:
        self.close()
        for transport, ended in self._connections.items():
            transport.close()
            await ended.wait()
        await self.wait_closed()


@dataclass
class RunningServer:
    """A server that serves from a thread with a loop of its own."""

    state: Path
    port: int = 0
    synchronous: str = "NORMAL"  # as Settings has it
    use_cases: UseCases = field(init=False)
    _ready: threading.Event = field(default_factory=threading.Event)
    _failure: BaseException | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> tuple[str, str]:
        token_id, _, secret = (self.state / "token").read_text().strip().partition(":")
        return token_id, secret

    def start(self) -> None:
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="server")
        self._thread.start()
        assert self._ready.wait(DEADLINE_S), "the server did not start"
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the server did not stop"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a use case in the server's own loop."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(DEADLINE_S)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - raised again by whoever started the server
            self._failure = failure
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        key = load_or_create_key(self.state / "keys" / "signing.key")
        edge = socket.create_server(("127.0.0.1", 0))
        self.use_cases = await assemble(self.state, key, f"http://127.0.0.1:{edge.getsockname()[1]}", self.synchronous)
        edge_server = uvicorn.Server(
            uvicorn.Config(self._edge(key), http="httptools", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        )
        serving_edge = asyncio.create_task(edge_server.serve([edge]))
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        host, edge_port = edge.getsockname()
        reached = Edge(host, edge_port, has_tls=False, addresses=addresses_of("localhost", edge_port, has_tls=False))
        authenticator = TokenAuthenticator(self.use_cases.tokens, reached)
        server = ClosingServer([Service(self.use_cases.handlers(key), authenticator)])
        await server.start(sock=listener)
        self._ready.set()
        await self._stopping.wait()
        await server.end()
        edge_server.should_exit = True
        await serving_edge
        self.use_cases.volumes.close()
        await self.use_cases.database.close()

    def _edge(self, key: bytes) -> Starlette:
        routes = [
            *EdgeBlobs(Objects(self.state / "objects"), key).routes(),
            *EdgeVolumes(self.use_cases.volumes.places, key).routes(),
        ]
        return Starlette(routes=routes, exception_handlers=REFUSALS)
