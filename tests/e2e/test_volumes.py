"""Volumes in real containers; the checks are in `programs/volumes.py`. And the command line, and the death of the server."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e

# Tells when the blocks have been sent and the request that puts the file in place is about to be.
SEND = """
import io, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
import modal
from modal import volume as library
volume = modal.Volume.from_name(f"killed-{os.getpid()}", create_if_missing=True, version=2).hydrate()
original = library._put_missing_blocks
async def put_and_tell(*arguments, **named):
    await original(*arguments, **named)
    print("uploaded", flush=True)
    signal.sigwait({signal.SIGUSR1})
library._put_missing_blocks = put_and_tell
data = os.urandom(20 << 20)
with volume.batch_upload() as batch:
    batch.put_file(io.BytesIO(data), "file")
assert b"".join(volume.read_file("file")) == data
print("kept", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_volumes(checks: Callable[..., None], client: str) -> None:
    checks("volumes", client=client)


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_command_line(platform: Platform, tmp_path: Path, client: str) -> None:
    name = f"by-hand-{client}"
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    target.mkdir()
    (source / "deep" / "file").write_text("content")

    def volume(*args: str) -> str:
        return platform.modal("volume", *args, client=client).out

    volume("create", name, "--version", "2")
    volume("put", name, str(source), "/tree")
    volume("put", name, str(source / "deep" / "file"), "/")
    assert volume("ls", name).split() == ["file", "tree"]
    volume("cp", name, "file", "copy")
    volume("cp", "-r", name, "tree", "tree2")
    volume("get", name, "/", str(target))
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert found == ["copy", "file", "tree/deep/file", "tree2/deep/file"]
    assert volume("get", name, "copy", "-").startswith("content")
    volume("rm", name, "copy")
    volume("rm", "-r", name, "tree2")
    assert volume("ls", name).split() == ["file", "tree"]
    volume("rename", "--yes", name, f"{name}-2")
    name = f"{name}-2"
    assert name in volume("list")
    path = Path(platform.control("volume", "path", name).strip())
    assert (path / "tree" / "deep" / "file").read_text() == "content"
    volume("delete", "--yes", name)
    assert not path.exists()


def test_server_that_dies_between_upload_and_commit(platform: Platform) -> None:
    """What was uploaded is kept: the client goes on as if nothing had happened."""
    program = platform.start("-c", SEND)
    program.until("uploaded")
    platform.kill("server")
    program.signal(signal.SIGUSR1)
    finished = program.end()
    assert "kept" in finished.out, finished.text
