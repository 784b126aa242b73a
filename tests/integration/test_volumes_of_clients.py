"""Volumes of both versions as the stock clients use them, newest and oldest; the checks are in `volume_checks.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running_server import RunningServer

HERE = Path(__file__).parent
CLIENTS = {"newest": Path(sys.executable), "oldest": HERE.parents[1] / ".venv-oldest" / "bin" / "python"}
DEADLINE_S = 180


def environment_of(server: RunningServer) -> dict[str, str]:
    """The variables by which a client finds the server, and nothing else of the caller's."""
    token_id, secret = server.token
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    return kept | {
        "MODAL_SERVER_URL": server.url,
        "MODAL_TOKEN_ID": token_id,
        "MODAL_TOKEN_SECRET": secret,
        "MODAL_CONFIG_PATH": str(server.state / "modal.toml"),
        "MODAL_DISABLE_API_PROXY": "1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("client", CLIENTS)
def test_checks(server: RunningServer, client: str, version: str) -> None:
    if not CLIENTS[client].exists():
        pytest.skip(f"{CLIENTS[client]} is missing: make environment-oldest")
    command = [str(CLIENTS[client]), str(HERE / "volume_checks.py"), version]
    done = subprocess.run(
        command, env=environment_of(server), capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=server.state
    )
    assert done.stdout.endswith("all done\n"), done.stdout[-2000:] + done.stderr[-6000:]
