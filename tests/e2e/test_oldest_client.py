"""The oldest client that is claimed, by its own command line; its functions and classes are checked beside those of the newest."""

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, Platform

pytestmark = pytest.mark.e2e

PROGRAM = """
import os

import modal

app = modal.App("oldest-program")
image = modal.Image.debian_slim().pip_install("six==1.16.0").env({"OLD": "1"}).run_commands("echo made > /made")


@app.function(image=image)
def where():
    import six

    return modal.__version__, six.__version__, os.environ["OLD"], open("/made").read()


@app.local_entrypoint()
def main():
    print(f"RESULT {where.remote()}")
"""


def modal(platform: Platform, *args: str) -> str:
    return platform.modal(*args, client="oldest", deadline_s=200).text


def test_the_first_program(platform: Platform) -> None:
    said = modal(platform, "run", str(REPOSITORY / "examples" / "hello.py"), "--name", "you")
    assert "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]" in said and "Hello you" in said and "App completed" in said
    assert "could not start" not in said


def test_an_image_is_built_and_runs_the_callers_client(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert f"RESULT {('1.1.0', '1.16.0', '1', 'made' + chr(10))!r}" in modal(platform, "run", str(program))
    assert "Building image" not in modal(platform, "run", str(program))


def test_deployments_by_the_command_line(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert "App deployed in" in modal(platform, "deploy", str(program), "--name", "oldest-deployed", "--tag", "v1")
    assert re.search(r"oldest-deployed\W+deployed", modal(platform, "app", "list"))
    history = modal(platform, "app", "history", "oldest-deployed")
    assert "1.1.0" in history and "v1" in history
    lookup = "import modal; print(modal.Function.from_name('oldest-deployed', 'where').remote()[0])"
    assert platform.run("-c", lookup, client="oldest").out.strip() == "1.1.0"
    assert platform.run("-c", lookup, client="newest").out.strip() == "1.1.0"  # the newest calls what the oldest deployed
    modal(platform, "app", "stop", "oldest-deployed")
    for command in (["container", "list"], ["environment", "list"], ["secret", "list"], ["dict", "list"], ["queue", "list"]):
        modal(platform, *command)


def test_the_oldest_calls_what_the_newest_deployed(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    platform.modal("deploy", str(program), "--name", "newest-deployed", deadline_s=200)
    lookup = "import modal; print(modal.Function.from_name('newest-deployed', 'where').remote()[0])"
    assert platform.run("-c", lookup, client="oldest").out.strip() not in ("", "1.1.0")
    platform.modal("app", "stop", "--yes", "newest-deployed")


def test_errors_are_readable(platform: Platform) -> None:
    finished = platform.try_run("-m", "modal", "volume", "ls", "nowhere-to-be-found", client="oldest")
    assert finished.code == 1 and "nowhere-to-be-found" in finished.text and "Traceback" not in finished.text, finished.text
