"""Volumes of both versions as the stock clients use them, newest and oldest; the checks are in `volume_checks.py`."""

import hashlib
import io
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import modal
import pytest
from running_server import RunningServer

from pilotlight.core.volumes import VolumeUrls
from pilotlight.objects import load_or_create_key

HERE = Path(__file__).parent
CLIENTS = {"newest": Path(sys.executable), "oldest": HERE.parents[1] / ".venv-oldest" / "bin" / "python"}
DEADLINE_S = 400


def environment_of(server: RunningServer) -> dict[str, str]:
    """The variables by which a client finds the server, and nothing else of the caller's."""
    token_id, secret = server.token
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    return kept | {
        "MODAL_SERVER_URL": server.url,
        "MODAL_TOKEN_ID": token_id,
        "MODAL_TOKEN_SECRET": secret,
        "MODAL_CONFIG_PATH": str(server.state / "modal.toml"),
        "MODAL_DISABLE_API_PROXY": "1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("client", CLIENTS)
def test_checks(server: RunningServer, client: str, version: str) -> None:
    if not CLIENTS[client].exists():
        pytest.skip(f"{CLIENTS[client]} is missing: make environment-oldest")
    command = [str(CLIENTS[client]), str(HERE / "volume_checks.py"), version]
    done = subprocess.run(
        command, env=environment_of(server), capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=server.state
    )
    assert done.stdout.endswith("all done\n"), done.stdout[-2000:] + done.stderr[-6000:]


def fetch(url: str, method: str = "GET", data: bytes | None = None) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data, method=method), timeout=DEADLINE_S) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def put(volume: modal.Volume, data: bytes) -> None:
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(data), "file")


def test_file_that_is_replaced_during_a_download(server: RunningServer, client: modal.Client) -> None:
    volume = modal.Volume.from_name("replaced", create_if_missing=True, version=2, client=client).hydrate()

    put(volume, b"first" * 3_000_000)
    files = server.use_cases.volume_files
    found = server.call(files.download(volume.object_id, ("file",), 8 << 20, 0, None))
    [last] = found.urls
    assert (found.size_bytes, found.start) == (15_000_000, 8 << 20)
    assert fetch(last) == (200, (b"first" * 3_000_000)[8 << 20 :])
    assert fetch(last, "HEAD") == (200, b"")
    assert fetch(last.replace(f"start={8 << 20}", "start=0"))[0] == 403
    put(volume, b"second" * 3_000_000)
    status, why = fetch(last)
    assert status == 409 and b"replaced" in why
    volume.remove_file("file")
    assert fetch(last)[0] == 404


def test_blocks_that_are_not_what_was_announced(server: RunningServer, client: modal.Client) -> None:
    volume = modal.Volume.from_name("wrong", create_if_missing=True, version=2, client=client).hydrate()
    places = server.use_cases.volumes.places
    put(volume, b"anything")
    [known] = server.call(server.use_cases.volume_files.download(volume.object_id, ("file",), 0, 0, None)).urls
    urls = VolumeUrls(load_or_create_key(server.state / "keys" / "signing.key"), known.partition("/volumes")[0])
    for size in (10, 100_000):
        good = os.urandom(size)
        digest = hashlib.sha256(good).hexdigest()
        url = urls.put_url(volume.object_id, digest, size, echo=size < 1000)
        assert fetch(url, "PUT", os.urandom(size))[0] == 400
        assert fetch(url, "PUT", good + b"more")[0] == 400
        assert list(places.drafts.iterdir()) == []
        status, answer = fetch(url, "PUT", good)
        assert (status, answer) == (200, good if size < 1000 else digest.encode())
        assert fetch(url.replace(digest, "0" * 64), "PUT", good)[0] == 403
    volume_id = volume.object_id
    modal.Volume.objects.delete("wrong", client=client)
    big = os.urandom(100_000)
    assert fetch(urls.put_url(volume_id, hashlib.sha256(big).hexdigest(), len(big)), "PUT", big)[0] == 404
    assert not places.tree(volume_id).exists()


def test_ephemeral_volumes_go_with_their_owner(server: RunningServer, client: modal.Client) -> None:
    with modal.Volume.ephemeral(client=client) as volume:
        volume_id = volume.object_id
        tree = server.use_cases.volumes.places.tree(volume_id)
        assert tree.is_dir()
    volumes = server.use_cases.volumes
    server.call(volumes.delete([volume_id]))
    assert server.call(volumes.collect()) == 0
    assert not tree.exists() and list(volumes.places.trash.iterdir()) == []
