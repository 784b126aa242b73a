"""A running server, and the official client to speak to it."""

from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
from running_server import RunningServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[modal.Client]:
    """The official client with the server's first token."""
    monkeypatch.setenv("MODAL_SERVER_URL", server.url)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(server.state / "modal.toml"))
    monkeypatch.setenv("MODAL_DISABLE_API_PROXY", "1")
    with modal.Client.from_credentials(*server.token) as client:
        yield client
