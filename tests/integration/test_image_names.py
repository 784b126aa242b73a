"""Published names of images, by the stock client and its command line."""

import json
import subprocess
import sys
from collections.abc import Iterator

import modal
import pytest
from platform_in_process import Platform


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


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "modal", *arguments], capture_output=True, text=True, timeout=150, check=False)


def test_names_of_images(platform: Platform) -> None:
    app = modal.App("names")

    @app.function(serialized=True, image=modal.Image.from_name("tools:v1"))
    def inside() -> str:
        return "ran"

    with modal.Client.from_credentials(*platform.token) as client:
        with pytest.raises(modal.exception.NotFoundError, match=r"tools:v1.*modal image names list"), app.run(client=client):
            pass
        build_in = modal.App.lookup("builds", client=client, create_if_missing=True)
        one = modal.Image.debian_slim().build(build_in)
        two = modal.Image.debian_slim().env({"TWO": "2"}).build(build_in)
        one.publish("tools:v1", client=client)
        one.publish("tools", client=client)
        two.publish("tools", client=client)
        two.publish("tools", client=client)
        with app.run(client=client):
            assert inside.remote() == "ran"

    listed = {item["tag"]: item["image_id"] for item in json.loads(command("image", "names", "list", "--json").stdout)}
    assert listed == {"tools:latest": two.object_id, "tools:v1": one.object_id}
    found = json.loads(command("image", "names", "list", "--json", "--prefix", "tools:v").stdout)
    assert [item["tag"] for item in found] == ["tools:v1"]
    history = json.loads(command("image", "names", "history", "tools", "--json").stdout)
    assert [(item["image_id"], item["published_by"]) for item in history] == [
        (two.object_id, "first"),
        (one.object_id, "first"),
    ]

    assert command("image", "names", "delete", "tools:v1", "--yes").returncode == 0
    gone = command("image", "names", "delete", "tools:v1", "--yes")
    assert gone.returncode == 1 and "No image is published as 'tools:v1' in environment 'main'" in gone.stderr, gone.stderr
    assert json.loads(command("image", "names", "list", "--json").stdout)[0]["tag"] == "tools:latest"


def test_names_go_with_their_environment(platform: Platform) -> None:
    assert command("environment", "create", "staging").returncode == 0
    with modal.Client.from_credentials(*platform.token) as client:
        build_in = modal.App.lookup("builds", client=client, create_if_missing=True)
        image = modal.Image.debian_slim().build(build_in)
        image.publish("tools", client=client, environment_name="staging")
    assert len(json.loads(command("image", "names", "list", "--json", "--env", "staging").stdout)) == 1
    assert json.loads(command("image", "names", "list", "--json").stdout) == []
    assert command("environment", "delete", "staging", "--yes").returncode == 0
    assert command("environment", "create", "staging").returncode == 0
    assert json.loads(command("image", "names", "list", "--json", "--env", "staging").stdout) == []
