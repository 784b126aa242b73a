"""`pilotlight status` and `pilotlight token` against a server's inner socket."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from pilotlight.config import Settings
from pilotlight.supervisor import lock
from pilotlight.supervisor.sockets import listen_unix
from pilotlight.wire import platform_pb2 as wire
from pilotlight.wire.platform_grpc import ControlBase

PILOTLIGHT = Path(sys.executable).with_name("pilotlight")
DOCUMENT: dict[str, Any] = {
    "version": "0.1.0",
    "uptime_s": 3700,
    "nodes": [{"node_id": "no-1", "name": "here", "state": "up", "milli_cpu": 2000, "memory_mib": 4096, "containers": 1}],
    "apps": [],
    "containers": [],
    "waiting": [{"function": "train", "app": "ap-1", "app_name": "a[b]c", "inputs": 2, "why": "no node has an H100"}],
    "builds": [],
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the run directory is in /run")


async def _not_asked(self: object, stream: Any) -> None:
    raise NotImplementedError


NotAsked: Any = type("NotAsked", (ControlBase,), dict.fromkeys(ControlBase.__abstractmethods__, _not_asked))


class Control(NotAsked):
    """A server that knows one token and one document, and is not asked about anything else."""

    async def Status(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(wire.StatusReply(json=json.dumps(DOCUMENT)))

    async def TokenCreate(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(wire.TokenCreateReply(token_id=f"ak-{request.name}", token_secret="as-1"))

    async def TokenList(self, stream: Any) -> None:
        await stream.recv_message()
        token = wire.TokenInfo(token_id="ak-1", name="laptop", created_at=1_700_000_000.0)
        await stream.send_message(wire.TokenListReply(tokens=[token]))

    async def TokenRevoke(self, stream: Any) -> None:
        request = await stream.recv_message()
        if request.token_id != "ak-1":
            raise GRPCError(Status.NOT_FOUND, f"there is no token {request.token_id}")
        await stream.send_message(wire.TokenRevokeReply())

    async def RotateSecretsKey(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(wire.RotateSecretsKeyReply(resealed=3, unreadable=1, made_key=True))

    async def Collect(self, stream: Any) -> None:
        request = await stream.recv_message()
        blobs = wire.Collected(kind="blobs", removed=2, removed_bytes=3 << 20, kept=5, kept_bytes=1 << 20)
        away = wire.Collected(kind="layers", problem="no node is connected")
        await stream.send_message(wire.CollectReply(kinds=[blobs, away] if request.dry_run else [away]))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(state=tmp_path)
    made.run_dir.mkdir()
    held = lock.take(made)
    assert held is not None
    held.describe(made)
    made.save()
    yield made
    held.release()
    shutil.rmtree(made.run_dir)


def pilotlight(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """What the command line says while the server of this test answers."""
    environment = {"HOME": str(settings.state), "COLUMNS": "200", "PATH": os.environ["PATH"]}
    command = [PILOTLIGHT, *arguments, "--state", settings.state]

    async def serve(listener: socket.socket) -> "subprocess.CompletedProcess[str]":
        server = Server([Control()])
        await server.start(sock=listener)
        try:
            return await asyncio.to_thread(
                subprocess.run, command, env=environment, capture_output=True, text=True, timeout=100, check=False
            )
        finally:
            server.close()
            await server.wait_closed()

    return asyncio.run(serve(listen_unix(settings.inner_socket_path)))


def test_json_is_alone_on_standard_output(settings: Settings) -> None:
    done = pilotlight(settings, "status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["running"] is True
    assert document["waiting"] == DOCUMENT["waiting"]
    assert document["modal"]["is_this_platform"] is False


def test_people_see_what_waits_and_why(settings: Settings) -> None:
    done = pilotlight(settings, "status")
    assert done.returncode == 0, done.stderr
    assert "up for 1 h 1 min" in done.stdout
    assert "no node has an H100" in done.stdout
    assert "a[b]c" in done.stdout
    assert "https://api.modal.com" in done.stdout


def test_tokens_are_made_listed_and_revoked(settings: Settings) -> None:
    made = pilotlight(settings, "token", "create", "laptop")
    assert made.stdout == "export MODAL_TOKEN_ID=ak-laptop\nexport MODAL_TOKEN_SECRET=as-1\n"
    assert "laptop" in pilotlight(settings, "token", "list").stdout
    assert pilotlight(settings, "token", "revoke", "ak-1").returncode == 0
    missing = pilotlight(settings, "token", "revoke", "ak-2")
    assert (missing.returncode, missing.stderr) == (1, "pilotlight: there is no token ak-2\n")


def test_the_key_of_secrets_is_changed(settings: Settings) -> None:
    done = pilotlight(settings, "secret", "rotate-key")
    assert done.returncode == 0, done.stderr
    assert f"3 secrets are sealed with the new key in {settings.keys_dir / 'secrets.key'}" in done.stdout
    assert "1 secrets were sealed with a key that is lost" in done.stderr


def test_what_would_go_and_what_was_not_looked_at(settings: Settings) -> None:
    would = pilotlight(settings, "gc", "--dry-run")
    assert would.returncode == 0, would.stderr
    assert "3.0 MiB would be freed." in would.stdout and "no node is connected" in would.stdout
    assert "0.0 MiB are free again." in pilotlight(settings, "gc").stdout
