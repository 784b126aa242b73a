"""The stock command line and ours on a platform with real containers: what people type, and what they read where it fails."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e

PROGRAM = """
import time

import modal

app = modal.App("cli-program")


@app.function()
def add(number: int, other: int = 2) -> int:
    print(f"adding {number} and {other}")
    return number + other


@app.function()
def forever() -> None:
    for turn in range(10_000):
        print(f"turn {turn}", flush=True)
        time.sleep(0.1)


@app.function()
def brief() -> None:
    time.sleep(1)
    print("brief is done")


@app.function(memory=100_000_000)
def huge() -> None:
    pass


@app.local_entrypoint()
def main(number: int, name: str = "nobody", loud: bool = False) -> None:
    print(f"{name} {loud} got {add.remote(number)}")


@app.local_entrypoint()
def leave() -> None:
    brief.spawn()
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def listed(platform: Platform, *command: str) -> list[dict[str, Any]]:
    return json.loads(platform.modal(*command, "--json").out)


def the_app(platform: Platform, name: str, *more: str) -> dict[str, Any]:
    """The newest app of that name, as `modal app list` shows it."""
    return next(app for app in listed(platform, "app", "list", *more) if app["description"] == name)


def refused(platform: Platform, *command: str) -> str:
    """What a command says that fails as it should: one line of error, and no traceback."""
    finished = platform.try_run("-m", "modal", *command)
    assert finished.code == 1, finished.text
    assert "Error: " in finished.text and "Traceback" not in finished.text, finished.text
    return finished.text


def test_run_entrypoints_functions_and_modules(platform: Platform, program: str, tmp_path: Path) -> None:
    said = platform.modal("run", f"{program}::main", "--number", "5", "--name", "bob", "--loud").text
    assert "bob True got 7" in said and "adding 5 and 2" in said and "App completed" in said
    assert f"View run at http://{platform.status()['web']}/apps/ap-" in said
    assert "adding 4 and 3" in platform.modal("run", f"{program}::add", "--number", "4", "--other", "3").text
    assert "adding" not in platform.modal("run", "-q", f"{program}::add", "--number", "4").text
    assert "multiple possible entrypoints" in refused(platform, "run", program)

    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").write_text(PROGRAM.replace("cli-program", "cli-module"))
    inside = replace(platform, environment={**platform.environment, "PYTHONPATH": str(tmp_path)})
    assert "nobody False got 3" in inside.modal("run", "-m", "a_package.part::main", "--number", "1").text


def test_a_detached_run_outlives_its_client_until_its_work_is_done(platform: Platform, program: str) -> None:
    assert "App completed" in platform.modal("run", "--detach", f"{program}::add", "--number", "1").text
    assert the_app(platform, "cli-program")["state"] == "stopped"

    assert "brief is done" in platform.modal("run", "--detach", f"{program}::leave").text
    left = platform.start("-m", "modal", "run", "--detach", f"{program}::forever")
    left.until("turn 1")
    left.signal(signal.SIGINT)
    assert "The detached App will keep running" in left.end().text
    app = the_app(platform, "cli-program")
    assert app["state"] == "ephemeral (detached)" and app["tasks"] == "1"
    platform.modal("app", "stop", "--yes", app["app_id"])
    assert the_app(platform, "cli-program")["stopped_at"]


def test_an_interrupted_run_ends_its_app(platform: Platform, program: str) -> None:
    run = platform.start("-m", "modal", "run", f"{program}::forever")
    run.until("turn 3")
    app = the_app(platform, "cli-program")
    assert app["state"] == "ephemeral"
    run.signal(signal.SIGINT)
    assert "Traceback" not in run.end().text
    assert the_app(platform, "cli-program") | {"stopped_at": ""} == app | {"state": "stopped", "tasks": "0", "stopped_at": ""}


def test_serve_loads_a_changed_file(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "served.py"
    path.write_text("import modal\n\napp = modal.App('cli-served')\n\n\n@app.function()\ndef first(): ...\n")
    serve = platform.start("-m", "modal", "serve", str(path))
    serve.until("Created Function first.")
    serve.until_watching()
    path.write_text(path.read_text().replace("first", "second"))
    serve.until("Created Function second.")
    serve.signal(signal.SIGINT)
    serve.end()
    assert the_app(platform, "cli-served")["state"] == "stopped"


def test_deployments_have_names_tags_a_history_and_a_way_back(platform: Platform, program: str) -> None:
    for tag in ("v1.0", "v1.1"):
        said = platform.modal("deploy", program, "--name", "cli-shop", "--tag", tag).text
        assert re.search(r"App deployed in [\d.]+s.*View Deployment: http://\S+/apps/ap-", said, re.DOTALL), said
    assert the_app(platform, "cli-shop")["state"] == "deployed"
    platform.modal("app", "rollback", "cli-shop", "v1")
    history = listed(platform, "app", "history", "cli-shop")
    assert [(item["version"], item["tag"], item["deployed_by"]) for item in history] == [
        ("v3", "v1.0", "first"),
        ("v2", "v1.1", "first"),
        ("v1", "v1.0", "first"),
    ]
    assert "has no version 9" in refused(platform, "app", "rollback", "cli-shop", "v9")

    platform.run("-c", "import modal; assert modal.Function.from_name('cli-shop', 'add').remote(5) == 7")
    for args in ([], ["--tail", "1"], ["--since", "10m"], ["--source", "stdout"]):
        assert platform.modal("app", "logs", "cli-shop", *args).out.strip() == "adding 5 and 2", args
    assert platform.modal("app", "logs", "cli-shop", "--source", "stderr").out.strip() == ""
    follow = platform.start("-m", "modal", "app", "logs", "-f", "cli-shop")
    follow.until("adding 5 and 2")
    assert "Rerun with --yes" in platform.try_run("-m", "modal", "app", "stop", "cli-shop").text
    platform.modal("app", "stop", "--yes", "cli-shop")
    follow.end()
    assert the_app(platform, "cli-shop")["state"] == "stopped"


def test_containers_are_listed_read_and_stopped(platform: Platform, program: str) -> None:
    run = platform.start("-m", "modal", "run", f"{program}::forever")
    run.until("turn 3")
    app = the_app(platform, "cli-program")

    def container() -> dict[str, Any]:
        return next(item for item in listed(platform, "container", "list") if item["app_id"] == app["app_id"])

    first = container()
    assert first["app_name"] == "cli-program" and first["start_time"]
    assert "turn 0" in platform.modal("container", "logs", first["container_id"]).out
    platform.modal("container", "stop", "--yes", first["container_id"])
    run.until("turn 0\n", times=2)  # its input begins again in another container
    assert container()["container_id"] != first["container_id"]
    platform.modal("app", "stop", "--yes", app["app_id"])
    ended = run.end()
    assert ended.code == 1 and "'cli-program' was stopped" in ended.text, ended.text
    assert "no container ta-1" in refused(platform, "container", "stop", "--yes", "ta-1")


def test_environments_are_apart(platform: Platform, program: str) -> None:
    platform.modal("environment", "create", "cli-dev")
    assert "already exists" in refused(platform, "environment", "create", "cli-dev")
    platform.modal("environment", "update", "cli-dev", "--set-name", "cli-test")
    assert {item["name"] for item in listed(platform, "environment", "list")} >= {"main", "cli-test"}
    platform.modal("deploy", program, "--name", "cli-apart", "--env", "cli-test")
    assert the_app(platform, "cli-apart", "--env", "cli-test")["state"] == "deployed"
    assert not [app for app in listed(platform, "app", "list") if app["description"] == "cli-apart"]
    there = "import modal; print(modal.Function.from_name('cli-apart', 'add', environment_name='cli-test').remote(1))"
    assert "3" in platform.run("-c", there).out
    platform.modal("environment", "delete", "--yes", "cli-test")
    assert "'cli-test' not found" in refused(platform, "deploy", program, "--env", "cli-test")
    assert not [app for app in platform.status()["apps"] if app["name"] == "cli-apart"]


def test_secrets_dicts_and_queues(platform: Platform) -> None:
    platform.modal("secret", "create", "cli-secret", "A=1", "B=2")
    assert "already exists" in refused(platform, "secret", "create", "cli-secret", "A=1")
    assert "cli-secret" in [item["name"] for item in listed(platform, "secret", "list")]
    platform.modal("secret", "delete", "--yes", "cli-secret")
    assert "cli-secret" not in [item["name"] for item in listed(platform, "secret", "list")]

    platform.modal("dict", "create", "cli-dict")
    platform.run("-c", "import modal; modal.Dict.from_name('cli-dict')['key'] = {'x': [1]}")
    assert listed(platform, "dict", "items", "cli-dict") == [{"key": "key", "value": {"x": [1]}}]
    platform.modal("dict", "delete", "--yes", "cli-dict")
    assert "cli-dict" in refused(platform, "dict", "items", "cli-dict")

    platform.modal("queue", "create", "cli-queue")
    platform.run("-c", "import modal; modal.Queue.from_name('cli-queue').put_many([7, 8])")
    assert platform.modal("queue", "len", "cli-queue").out.strip() == "2"
    assert platform.modal("queue", "peek", "cli-queue").out.strip() == "7"
    platform.modal("queue", "delete", "--yes", "cli-queue")


def test_tokens_and_profiles(platform: Platform, program: str, tmp_path: Path) -> None:
    profiles = tmp_path / "modal.toml"
    no_variables = {name: value for name, value in platform.environment.items() if not name.startswith("MODAL_")}
    at_home = replace(platform, environment={**no_variables, "MODAL_CONFIG_PATH": str(profiles)})
    assert "Token missing" in refused(at_home, "app", "list")

    made = platform.control("token", "create", "cli-token")
    found = dict(re.findall(r"export (MODAL_TOKEN_\w+)=(\S+)", made))
    token_id, secret = found["MODAL_TOKEN_ID"], found["MODAL_TOKEN_SECRET"]
    assert token_id in platform.control("token", "list")
    server = replace(at_home, environment={**at_home.environment, "MODAL_SERVER_URL": platform.environment["MODAL_SERVER_URL"]})
    assert "token is wrong" in refused(server, "token", "set", "--token-id", token_id, "--token-secret", "as-wrong")
    server.modal("token", "set", "--token-id", token_id, "--token-secret", secret, "--profile", "ours", "--activate")
    assert at_home.modal("profile", "current").out.strip() == "ours"
    assert [item["workspace"] for item in listed(at_home, "profile", "list")] == ["main"]
    assert "cli-token" in at_home.modal("token", "info").text and token_id in at_home.modal("token", "info").text
    shown = json.loads(at_home.modal("config", "show").out)
    assert shown["server_url"] == platform.environment["MODAL_SERVER_URL"] and secret not in str(shown)
    at_home.modal("config", "set-environment", "main")
    assert "adding 1 and 2" in at_home.modal("run", f"{program}::add", "--number", "1").text

    platform.control("token", "revoke", token_id)
    assert f"The token {token_id} ('cli-token') was revoked" in refused(at_home, "app", "list")


def test_unknown_names_and_missing_features_are_named(platform: Platform, program: str, tmp_path: Path) -> None:
    assert "'cli-nowhere'" in refused(platform, "app", "logs", "cli-nowhere")
    assert "'cli-nowhere'" in refused(platform, "app", "stop", "--yes", "cli-nowhere")
    for feature, arguments in {
        "from 1 to 8": "gpu='T4:9'",
        "building an image by running a function": "image=modal.Image.debian_slim().run_function(print)",
        "'cli-nowhere' not found": "secrets=[modal.Secret.from_name('cli-nowhere')]",
    }.items():
        path = tmp_path / "asks.py"
        path.write_text(f"import modal\n\napp = modal.App('cli-asks')\n\n\n@app.function({arguments})\ndef asks(): ...\n")
        assert feature in refused(platform, "deploy", str(path))
    lookup = "import modal; modal.Function.from_name('cli-nowhere', 'add').remote(1)"
    assert "App 'cli-nowhere' not found in environment 'main'" in platform.try_run("-c", lookup).text


def test_status_says_what_waits_and_why(platform: Platform, program: str) -> None:
    run = platform.start("-m", "modal", "run", f"{program}::huge")
    run.until("Function huge waits: needs 0.125 CPUs and 100000000 MiB")
    waiting = next(item for item in platform.status()["waiting"] if item["function"] == "huge")
    assert waiting["inputs"] == 1 and waiting["why"].startswith("needs 0.125 CPUs and 100000000 MiB, the largest node has")
    app = the_app(platform, "cli-program")
    shown = platform.control("status")
    assert app["app_id"] in shown and "cli-program" in shown
    assert next(item for item in platform.status()["apps"] if item["app_id"] == app["app_id"])["functions"] == 4
    run.signal(signal.SIGINT)
    run.end()
    assert '"event": "app_stopped"' in platform.control("logs", "server")
