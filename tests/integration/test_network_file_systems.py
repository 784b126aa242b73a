"""Network file systems as the official client sees them: names of their own, files as those of volumes."""

import io
import os
import warnings
from collections.abc import Iterator

import modal
import pytest
from modal.exception import NotFoundError
from running_server import RunningServer

pytestmark = pytest.mark.filterwarnings("ignore::modal.exception.DeprecationError")


@pytest.fixture
def kept(client: modal.Client) -> Iterator[modal.NetworkFileSystem]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield modal.NetworkFileSystem.from_name("kept", create_if_missing=True, client=client).hydrate(client)


def test_files_are_what_was_sent(kept: modal.NetworkFileSystem, client: modal.Client) -> None:
    large = os.urandom(5 << 20)  # goes as a blob
    kept.write_file("/a/b/small.txt", io.BytesIO(b"small"))
    kept.write_file("large.bin", io.BytesIO(large))
    kept.write_file("/a/b/small.txt", io.BytesIO(b"newer"))
    assert b"".join(kept.read_file("/a/b/small.txt")) == b"newer"
    assert b"".join(kept.read_file("large.bin")) == large
    assert sorted(entry.path.strip("/") for entry in kept.listdir("/")) == ["a", "large.bin"]
    assert [entry.path.strip("/") for entry in kept.listdir("/a/b")] == ["a/b/small.txt"]
    with pytest.raises(Exception, match="directory"):
        kept.remove_file("/a")
    kept.remove_file("/a", recursive=True)
    assert [entry.path.strip("/") for entry in kept.listdir("/")] == ["large.bin"]
    with pytest.raises(FileNotFoundError):
        list(kept.read_file("/a/b/small.txt"))
    with pytest.raises(Exception, match=r"\.\."):
        kept.write_file("../out", io.BytesIO(b"x"))


def test_they_are_no_volumes_by_name_and_go_with_their_files(
    kept: modal.NetworkFileSystem, client: modal.Client, server: RunningServer
) -> None:
    kept.write_file("f", io.BytesIO(b"x"))
    assert modal.Volume.objects.list(client=client) == []
    volume = modal.Volume.from_name("kept", create_if_missing=True, client=client).hydrate()
    assert volume.listdir("/") == []
    (tree,) = [path for path in (server.state / "volumes").glob("vo-*") if path.name != volume.object_id]
    assert (tree / "f").read_bytes() == b"x"
    modal.NetworkFileSystem.delete("kept", client=client)
    assert not tree.exists()
    with pytest.raises(NotFoundError, match="kept"):
        modal.NetworkFileSystem.from_name("kept", client=client).hydrate(client)


def test_an_ephemeral_one(client: modal.Client) -> None:
    with modal.NetworkFileSystem.ephemeral(client=client) as files:
        files.write_file("f", io.BytesIO(b"x"))
        assert b"".join(files.read_file("f")) == b"x"
