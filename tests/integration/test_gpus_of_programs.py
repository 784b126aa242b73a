"""GPUs for programs of the stock client: what is asked for, what containers are told, and the words of those who wait."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import modal
import pytest
from platform_in_process import DEADLINE_S, Platform

INVENTORY = "A10G:2,H100:1,RTX-4090:1"
app = modal.App("gpus")


@app.function(serialized=True, gpu="a10g:2")
def both() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if "_GPU_" in name or "_VISIBLE_" in name}


@app.function(serialized=True, gpu=["B200:8", "h100", "a10g"])
def ranked() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if "_GPU_" in name or "_VISIBLE_" in name}


@app.function(serialized=True, gpu="H100!")
def exactly() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if "_GPU_" in name or "_VISIBLE_" in name}


@app.function(serialized=True, gpu="any", max_containers=1)
def anything() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if "_GPU_" in name or "_VISIBLE_" in name}


@app.function(serialized=True)
def nothing() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if "_GPU_" in name or "_VISIBLE_" in name}


def holding() -> Callable[[int], str]:
    def hold(port: int) -> str:
        import os
        import socket

        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.recv(1)  # until the test closes it
        return os.environ["CUDA_VISIBLE_DEVICES"]

    return hold


hold = app.function(serialized=True, gpu="A10", single_use_containers=True, name="hold")(holding())


@app.cls(serialized=True, gpu="RTX-4090")
class Model:
    @modal.method()
    def kind(self) -> str:
        import os

        return os.environ["MODAL_GPU_TYPE"]


def platform_with(monkeypatch: pytest.MonkeyPatch, **settings: object) -> Platform:
    running = Platform(**settings)
    running.start()
    monkeypatch.setenv("MODAL_SERVER_URL", running.url)
    monkeypatch.setenv("MODAL_TOKEN_ID", running.token[0])
    monkeypatch.setenv("MODAL_TOKEN_SECRET", running.token[1])
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(running.settings.state / "modal.toml"))
    return running


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with pytest.MonkeyPatch.context() as patch:
        running = platform_with(patch, gpus=INVENTORY)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[modal.Client]:
    with modal.Client.from_credentials(*platform.token) as client:
        yield client


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """Where containers knock that hold a GPU; they end when their connection is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        yield listener


def uuids(platform: Platform, kind: str) -> list[str]:
    return [gpu.device.uuid for gpu in platform.server.nodes.gpus.all() if gpu.device.kind == kind]


def test_containers_are_told_which_gpus_are_theirs(platform: Platform, client: modal.Client) -> None:
    with app.run(client=client):
        listed = ",".join(uuids(platform, "A10G"))
        assert both.remote() == {
            "CUDA_VISIBLE_DEVICES": listed,
            "NVIDIA_VISIBLE_DEVICES": listed,
            "MODAL_GPU_TYPE": "A10G",
            "MODAL_GPU_COUNT": "2",
        }
        assert ranked.remote()["CUDA_VISIBLE_DEVICES"] == uuids(platform, "H100")[0]
        assert exactly.remote()["MODAL_GPU_TYPE"] == "H100"  # which `ranked`, idle by now, has made room for
        assert Model().kind.remote() == "RTX-4090"
        assert nothing.remote() == {}
        assert anything.remote()["MODAL_GPU_COUNT"] == "1"


def test_a_list_falls_back_to_what_is_free(platform: Platform, client: modal.Client, tmp_path: Path) -> None:
    with app.run(client=client):
        assert {entry["MODAL_GPU_TYPE"] for entry in (exactly.remote(), ranked.remote())} == {"H100", "A10G"}
        fewer = ranked.with_options(gpu="A10G")
        assert fewer.remote()["MODAL_GPU_TYPE"] == "A10G"


def read_until(platform: Platform, text: str) -> Callable[[], None]:
    """Notes what the platform says to authors of programs from now on; the result waits for a text in it."""
    said, changed = [""], asyncio.Event()
    say = platform.server.output_log.say

    def noted(app_id: str, function_id: str, task_id: str, line: str, root_id: str = "") -> None:
        say(app_id, function_id, task_id, line, root_id)
        said[0] += line
        changed.set()

    platform.server.output_log.say = noted  # type: ignore[method-assign]

    async def until() -> None:
        async with asyncio.timeout(DEADLINE_S - 1):
            while text not in said[0]:
                changed.clear()
                await changed.wait()

    return lambda: platform.call(until())


def test_who_waits_is_told_for_what_and_is_served_when_it_is_free(
    platform: Platform, client: modal.Client, door: socket.socket
) -> None:
    says_busy = read_until(platform, "needs 1×A10; 2 of 2 GPUs (A10G) are busy")
    port = door.getsockname()[1]
    with app.run(client=client):
        calls = [hold.spawn(port) for _ in range(3)]
        first, second = door.accept()[0], door.accept()[0]
        says_busy()
        shown = platform.server.overview.document()
        assert shown["waiting"][0]["why"] == "needs 1×A10; 2 of 2 GPUs (A10G) are busy"
        assert [gpu["state"] for gpu in shown["gpus"] if gpu["kind"] == "A10G"] == ["used", "used"]
        assert "gpus.hold (ta-" in shown["gpus"][0]["used_by"]
        first.close()
        third = door.accept()[0]  # not before the first has given back what it had
        for connection in (second, third):
            connection.close()
        assert {call.get(timeout=DEADLINE_S) for call in calls} == set(uuids(platform, "A10G"))


def test_a_kind_that_is_not_there_is_named_with_those_that_are(platform: Platform, client: modal.Client) -> None:
    says_never = read_until(platform, "needs 2×H100, this platform has 2×A10G, 1×H100, 1×RTX-4090")
    with app.run(client=client):
        call = exactly.with_options(gpu="H100:2").spawn()
        says_never()
        call.cancel()


@pytest.mark.parametrize("gpu", ["A10G:9", "H100:0", ["A10G", "T4:16"]])
def test_a_number_of_gpus_that_nobody_can_give_is_refused(platform: Platform, client: modal.Client, gpu: str | list[str]) -> None:
    refused = modal.App("refused")
    refused.function(serialized=True, gpu=gpu, name="greedy")(lambda: None)
    with pytest.raises(modal.exception.InvalidError, match=r"'greedy': gpu=.*from 1 to 8"):
        refused.deploy(client=client)


def test_the_oldest_client_asks_in_the_same_words(platform: Platform, tmp_path: Path) -> None:
    oldest = Path(__file__).parent.parent.parent / ".venv-oldest" / "bin" / "python"
    if not oldest.exists():
        pytest.skip(f"{oldest} is missing: make environment-oldest")
    program = tmp_path / "old.py"
    program.write_text(
        "import modal\napp = modal.App('old')\n"
        "@app.function(gpu=['B200', 'h100'])\ndef first(): pass\n@app.function(gpu='A10G:2')\ndef second(): pass\n"
    )
    done = subprocess.run([str(oldest), "-m", "modal", "deploy", str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    async def wishes() -> list[str]:
        server = platform.server
        from pilotlight.control.needs import needs_of

        ids = [await server.apps.find_function("old", tag, "") for tag in ("first", "second")]
        return [str(need.gpu) for function_id in ids for need in needs_of(await server.functions.get(function_id))]

    assert platform.call(wishes()) == ["1×B200", "1×H100", "2×A10G"]


def test_four_containers_share_one_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, door: socket.socket) -> None:
    platform = platform_with(monkeypatch, gpus="A10G:1", gpu_share="A10G=4")
    try:
        with modal.Client.from_credentials(*platform.token) as client:
            sharing = modal.App("sharing", image=modal.Image.debian_slim())
            held = sharing.function(serialized=True, gpu="A10G", single_use_containers=True, name="hold")(holding())
            with sharing.run(client=client):
                calls = [held.spawn(door.getsockname()[1]) for _ in range(4)]
                connections = [door.accept()[0] for _ in range(4)]  # none ends before all have begun
                shown = platform.server.overview.document()["gpus"]
                assert [(gpu["used"], gpu["shares"]) for gpu in shown] == [(4, 4)]
                for connection in connections:
                    connection.close()
                assert [call.get(timeout=DEADLINE_S) for call in calls] == uuids(platform, "A10G") * 4
    finally:
        platform.stop()


def test_the_command_line_refuses_an_inventory_that_it_can_not_read(tmp_path: Path) -> None:
    pilotlight = Path(sys.executable).parent / "pilotlight"
    for flags, said in ((("--gpus", "A10G:two"), "KIND:NUMBER"), (("--gpu-share", "A10G:4"), "KIND=NUMBER")):
        command = [str(pilotlight), "up", "--state", str(tmp_path / "state"), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode and said in done.stderr, done.stderr
