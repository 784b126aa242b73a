"""The settings of a deployed function's autoscaler, changed by the stock client: they hold until the next deployment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import pytest
from platform_in_process import Platform

from pilotlight.control.autoscalers import Autoscalers

PROGRAM = """
import modal
app = modal.App("scaled")
@app.function(max_containers=7)
def idle():
    pass
@app.function(min_containers=1)
def warm():
    pass
@app.function(serialized=True)
@modal.concurrent(max_inputs=4, target_inputs=2)
def together(number):
    import os, time
    while not os.path.exists(ENOUGH):
        time.sleep(0.05)
    return number
@app.cls(min_containers=1)
class Parametrized:
    label: str = modal.parameter()
    @modal.method()
    def nothing(self):
        pass
"""


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    running = Platform()
    running.start()
    monkeypatch.setenv("MODAL_SERVER_URL", running.url)
    monkeypatch.setenv("MODAL_TOKEN_ID", running.token[0])
    monkeypatch.setenv("MODAL_TOKEN_SECRET", running.token[1])
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(running.settings.state / "modal.toml"))
    monkeypatch.setenv("COLUMNS", "200")
    yield running
    running.stop()


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "modal", *arguments], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def settings(name: str = "scaled/idle") -> dict[str, Any]:
    return json.loads(command("function", "autoscaler", "settings", name, "--json"))["current_settings"]


def test_changes_hold_until_the_next_deployment(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "scaled.py"
    program.write_text(PROGRAM)
    command("deploy", str(program))
    assert settings() == {"min_containers": 0, "max_containers": 7, "buffer_containers": 0, "scaledown_window": 60}

    with modal.Client.from_credentials(*platform.token) as client:
        idle = modal.Function.from_name("scaled", "idle", client=client)
        changed = idle.autoscaler.update(max_containers=4, scaledown_window=30)
        assert (changed.max_containers, changed.scaledown_window) == (4, 30)
        assert idle.autoscaler.update(max_containers=None).max_containers is None
        with pytest.raises(modal.exception.InvalidError, match=r"min_containers=9.*max_containers=2"):
            idle.autoscaler.update(min_containers=9, max_containers=2)
        function_id = idle.object_id

    async def read_again() -> int:
        server = platform.server
        fresh = Autoscalers(database=server.database, apps=server.apps, functions=server.functions, pools=server.pools)
        await fresh.restore()
        return fresh.settings_of(await server.functions.get(function_id)).scaledown_window

    assert platform.call(read_again()) == 30
    events = json.loads(command("function", "autoscaler", "settings", "scaled/idle", "--json"))["override_events"]
    assert {event["setting"]: event["actor_name"] for event in events} == {"max_containers": "first", "scaledown_window": "first"}

    command("deploy", str(program))
    assert settings() == {"min_containers": 0, "max_containers": 7, "buffer_containers": 0, "scaledown_window": 60}
    command("app", "rollback", "scaled")
    assert settings() == {"min_containers": 0, "max_containers": 7, "buffer_containers": 0, "scaledown_window": 60}


def test_containers_are_kept_warm_without_a_call(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "scaled.py"
    program.write_text(PROGRAM)
    command("deploy", str(program))

    async def started(function: str) -> list[str]:
        """Functions with containers, once one of them has one; in the order of the first that came."""
        server = platform.server
        while not any(task.pool.function.tag == function for task in server.tasks.all()):
            server.pools.changed.clear()
            await server.pools.changed.wait()
        return sorted({task.pool.function.tag for task in server.tasks.all()})

    assert platform.call(started("warm")) == ["warm"]
    with modal.Client.from_credentials(*platform.token) as client:
        modal.Function.from_name("scaled", "idle", client=client).autoscaler.update(min_containers=1)
    assert platform.call(started("idle")) == ["idle", "warm"]


def test_the_oldest_client_changes_them_too(platform: Platform, tmp_path: Path) -> None:
    oldest = Path(__file__).parent.parent.parent / ".venv-oldest" / "bin" / "python"
    if not oldest.exists():
        pytest.skip(f"{oldest} is missing: make environment-oldest")
    program = tmp_path / "scaled.py"
    program.write_text(PROGRAM)
    command("deploy", str(program))
    idle = "import modal; modal.Function.from_name('scaled', 'idle')"
    for change in ("update_autoscaler(min_containers=0, scaledown_window=5)", "keep_warm(1)"):
        asked = [str(oldest), "-c", f"{idle}.{change}"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=150, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
        assert settings()["scaledown_window"] == 5
    assert settings()["min_containers"] == 1


def test_containers_are_counted_by_the_inputs_that_are_aimed_at(platform: Platform, tmp_path: Path) -> None:
    enough = tmp_path / "enough"
    program = tmp_path / "scaled.py"
    program.write_text(PROGRAM.replace("ENOUGH", repr(str(enough))))
    command("deploy", str(program))

    def containers() -> int:
        return sum(task.pool.function.tag == "together" for task in platform.server.tasks.all())

    async def there_are(count: int) -> None:
        while containers() < count:
            platform.server.pools.changed.clear()
            await platform.server.pools.changed.wait()

    with modal.Client.from_credentials(*platform.token) as client:
        function = modal.Function.from_name("scaled", "together", client=client)
        calls = [function.spawn(number) for number in range(6)]
        platform.call(there_are(3))  # one for each two inputs, though each may take four
        enough.touch()
        assert [call.get(timeout=100) for call in calls] == list(range(6))
        assert containers() == 3
