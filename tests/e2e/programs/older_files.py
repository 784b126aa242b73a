"""A network file system between containers and outside, as older programs use it."""

import io
import os
import warnings
from pathlib import Path

import modal

warnings.simplefilter("ignore")
app = modal.App("older-files")
NAME = f"older-files-{os.getpid()}"
shared = modal.NetworkFileSystem.from_name(os.environ.get("SHARED_NAME", NAME), create_if_missing=True)


@app.function(network_file_systems={"/shared": shared})
def append(text: str) -> str:
    path = Path("/shared/notes/today")
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + text)
    return path.read_text()


def check_what_containers_write_is_read_outside() -> None:
    assert append.remote("one ") == "one "
    assert append.remote("two") == "one two"
    assert b"".join(shared.read_file("notes/today")) == b"one two"
    shared.write_file("notes/today", io.BytesIO(b"from outside "))
    assert append.remote("and in") == "from outside and in"
    modal.NetworkFileSystem.delete(NAME)
