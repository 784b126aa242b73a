"""Secrets, dicts, queues, environments and the sweeper on a platform with real containers."""

import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Platform, content

pytestmark = pytest.mark.e2e

SECRET_PROGRAM = """
import os, sys
import modal

app = modal.App("canary")

@app.function(secrets=[modal.Secret.from_name("canary"), modal.Secret.from_dict({"INLINE": os.environ.get("INLINE_HERE", "")})])
def length() -> int:
    return len(os.environ["CANARY"]) + len(os.environ["INLINE"])

@app.function()
def hold(secs: float = 0) -> str:
    return os.environ.get("CANARY", "nothing")

@app.local_entrypoint()
def main():
    print(f"the length is {length.remote()} {hold.remote()}")
"""


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_programs_keep_their_state(checks: Callable[..., None], client: str) -> None:
    checks("state", client=client)


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_programs_with_network_file_systems(checks: Callable[..., None], client: str) -> None:
    checks("older_files", client=client)


def _grep(platform: Platform, needle: bytes) -> list[str]:
    """Where a value can be read: files of the state but those of running containers, run directory, processes of the platform."""
    state = platform.settings.state
    walks = (*os.walk(state), *os.walk(platform.settings.run_dir))
    places = [path for directory, _, names in walks for name in names if (path := Path(directory, name)).is_file()]
    for process, pid in platform.status()["processes"].items():
        assert pid, process
        places += [Path(f"/proc/{pid}/{name}") for name in ("cmdline", "environ")]
    assert any(path.name.startswith("pilotlight.db-wal") for path in places)
    return [str(path) for path in places if needle in content(path)]


def test_values_of_secrets_are_nowhere_to_be_read(platform: Platform, tmp_path: Path) -> None:
    canary, inline = f"canary-{secrets.token_hex(8)}", f"inline-{secrets.token_hex(8)}"
    platform.modal("secret", "create", "canary", f"CANARY={canary}", "--force")
    program = tmp_path / "canary_program.py"
    program.write_text(SECRET_PROGRAM)
    expected = f"the length is {len(canary) + len(inline)} nothing"
    assert expected in platform.start("-m", "modal", "run", str(program), INLINE_HERE=inline).end().text
    refused = platform.try_run("-m", "modal", "secret", "create", "too-big", f"BIG={canary}" + "x" * 32_768)
    assert refused.code == 1 and "32768" in refused.text and canary not in refused.text
    listed = platform.modal("secret", "list", "--json").out
    assert "canary" in listed and canary not in listed
    assert canary not in platform.control("status", "--json")
    assert not platform.control("secret", "rotate-key").startswith("0 ")
    for needle in (canary, inline):
        assert _grep(platform, needle.encode()) == []
    assert expected in platform.start("-m", "modal", "run", str(program), INLINE_HERE=inline).end().text
    platform.modal("secret", "delete", "--yes", "canary")


def test_the_command_line_of_secrets(platform: Platform, tmp_path: Path) -> None:
    dotenv, document = tmp_path / "my.env", tmp_path / "my.json"
    dotenv.write_text("A=1\nB='two words'\n")
    document.write_text(json.dumps({"C": "3"}))
    platform.modal("secret", "create", "from-files", "--from-dotenv", str(dotenv), "--from-json", str(document))
    again = platform.try_run("-m", "modal", "secret", "create", "from-files", "A=2")
    assert again.code == 1 and "already exists" in again.text
    platform.modal("secret", "create", "from-files", "A=2", "--force")
    missing = "import modal; modal.Secret.from_name('from-files', required_keys=['A', 'B']).hydrate()"
    found = platform.try_run("-c", missing)
    assert found.code == 1 and "Secret is missing key(s): B" in found.text
    platform.modal("secret", "delete", "--yes", "from-files")
    assert platform.try_run("-m", "modal", "secret", "delete", "--yes", "from-files").code == 1


def test_the_command_line_of_dicts_and_queues(platform: Platform) -> None:
    fill = """
import modal
d = modal.Dict.from_name("cli-d"); d.update({"a": 1, "b": [2]})
q = modal.Queue.from_name("cli-q"); q.put_many([1, 2, 3]); q.put("p", partition="part")
"""
    platform.modal("dict", "create", "cli-d")
    platform.modal("queue", "create", "cli-q")
    platform.run("-c", fill)
    assert platform.modal("dict", "get", "cli-d", "a").out.strip() == "1"
    assert (
        sorted(json.loads(platform.modal("dict", "items", "cli-d", "--json").out), key=str)
        == [
            {"Key": "a", "Value": 1},
            {"Key": "b", "Value": [2]},
        ]
        or "a" in platform.modal("dict", "items", "cli-d").out
    )
    assert platform.modal("queue", "peek", "cli-q", "2").out.split() == ["1", "2"]
    assert platform.modal("queue", "len", "cli-q").out.strip() == "3"
    assert platform.modal("queue", "len", "cli-q", "--total").out.strip() == "4"
    (listed,) = [one for one in json.loads(platform.modal("queue", "list", "--json").out) if "cli-q" in one.values()]
    assert {2, 4} <= set(listed.values())
    platform.modal("queue", "clear", "--yes", "--all", "cli-q")
    assert platform.modal("queue", "len", "cli-q", "--total").out.strip() == "0"
    platform.modal("dict", "clear", "--yes", "cli-d")
    assert platform.modal("dict", "get", "cli-d", "a").out.strip() == "None"
    platform.modal("dict", "delete", "--yes", "cli-d")
    platform.modal("queue", "delete", "--yes", "cli-q")
    assert "cli-d" not in platform.modal("dict", "list").out and "cli-q" not in platform.modal("queue", "list").out


def test_an_environment_goes_with_all_that_lives_in_it(platform: Platform) -> None:
    platform.modal("environment", "create", "cli-env")
    platform.modal("secret", "create", "lives-here", "A=1", "--env", "cli-env")
    platform.modal("dict", "create", "lives-here", "--env", "cli-env")
    platform.modal("queue", "create", "lives-here", "--env", "cli-env")
    assert "lives-here" not in platform.modal("dict", "list").out
    platform.modal("environment", "update", "cli-env", "--set-name", "cli-env-2", "--set-web-suffix", "two")
    names = {one["name"] for one in json.loads(platform.modal("environment", "list", "--json").out)}
    assert "cli-env-2" in names and "cli-env" not in names
    platform.modal("workspace", "settings", "set", "default-environment", "cli-env-2")
    assert "lives-here" in platform.modal("dict", "list").out
    assert platform.try_run("-m", "modal", "environment", "delete", "--yes", "cli-env-2").code == 1
    platform.modal("workspace", "settings", "set", "default-environment", "main")
    platform.modal("environment", "delete", "--yes", "cli-env-2")
    assert platform.try_run("-m", "modal", "dict", "list", "--env", "cli-env-2").code == 1
    platform.modal("environment", "create", "cli-env-2")
    assert "lives-here" not in platform.modal("secret", "list", "--env", "cli-env-2").out
    platform.modal("environment", "delete", "--yes", "cli-env-2")


def test_the_sweeper_says_what_it_leaves_and_harms_nobody(platform: Platform) -> None:
    would = _swept(platform, "--dry-run")
    assert would["layers"][2] > 0 and would["files of mounts"][2] > 0
    done = _swept(platform)
    assert done["layers"][0] == would["layers"][0]
    example = Path(__file__).parents[2] / "examples" / "hello.py"
    assert platform.modal("run", str(example)).code == 0


def _swept(platform: Platform, *options: str) -> dict[str, tuple[int, float, int]]:
    """Kind → how many went, their MiB, how many stay."""
    found: dict[str, tuple[int, float, int]] = {}
    for line in platform.control("gc", *options).splitlines():
        if match := re.match(r"\s*([a-z ]+?)\s{2,}(\d+)\s+([\d.]+)\s+(\d+)\s+([\d.]+)", line):
            found[match[1]] = (int(match[2]), float(match[3]), int(match[4]))
    assert found
    return found


@pytest.mark.slow
def test_the_server_dies_between_puts_and_gets(platform: Platform) -> None:
    program = platform.start("crashes.py", "1200", deadline_s=180.0)
    for progress in (100, 400, 700, 1000):
        program.until(f"got so far: {progress}")
        platform.kill("server")
    assert "lost 0, doubled 0, left 0 and 0" in program.end().out, program.text
