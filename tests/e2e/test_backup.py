"""A backup of a platform that runs becomes another one: what was deployed is called there, with nothing built again."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CLIENTS, Platform, _environment, _free_address, _pilotlight, traces

from pilotlight.config import Settings

pytestmark = pytest.mark.e2e

COPY_LIMIT_S = 300.0  # of all layers


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path, gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="pl-backup-"))
    yield made
    shutil.rmtree(made)


def command(*arguments: object) -> str:
    program = [str(CLIENTS["newest"] / "pilotlight"), *map(str, arguments)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=COPY_LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_was_deployed_is_called_on_a_restored_platform(platform: Platform, place: Path) -> None:
    platform.modal("secret", "create", "kept-secret", "PASSWORD=hunter2", "--force")
    platform.modal("deploy", "kept.py")
    try:
        call_id = platform.run("kept.py", "begin").out.partition("call ")[2].split()[0]
        said = command("backup", place / "all.tar", "--with-key", "--state", platform.settings.state)
        assert "layers.tar" in said and "secrets" in said
    finally:
        platform.modal("app", "stop", "--yes", "kept")
    state = place / "state"
    command("restore", place / "all.tar", "--state", state)
    other = Settings(state=state)
    layers = sorted(path.name for path in other.layers_dir.iterdir())
    _pilotlight("up", "--detach", "--state", str(state), "--api", _free_address(), "--web", _free_address())
    try:
        restored = Platform(other, _environment(state))
        assert "all is there" in restored.run("kept.py", "again", call_id).out
        assert sorted(path.name for path in other.layers_dir.iterdir()) == layers, "nothing was built"
        assert "AppPublish" in restored.control("audit", "--limit", "1000")
    finally:
        _pilotlight("down", "--state", str(state))
    assert not any(traces(other).values()), traces(other)
