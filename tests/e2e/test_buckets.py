"""Bucket mounts against an S3 server (`tests/s3`), in real containers; the checks are in `programs/buckets.py`."""

import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROGRAMS, REPOSITORY, Platform, traces
from support.node_programs import NODE

pytestmark = pytest.mark.e2e

LIMIT_S = 120


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A directory with the objects of a bucket, and the URL of its server."""
    server = REPOSITORY / "tests" / "s3"
    if not NODE.exists() or not (server / "node_modules").exists():
        pytest.skip(f"{server}/node_modules is missing: make environment-node")
    if not all(map(shutil.which, ("rclone", "fusermount3"))):
        pytest.skip("rclone and fuse3 are missing: make environment-buckets")
    directory = tmp_path_factory.mktemp("s3")
    command = [str(NODE), str(server / "server.js"), str(directory), "things"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield directory / "things", f"http://127.0.0.1:{port}"
        process.kill()


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_buckets(platform: Platform, objects: tuple[Path, str], subtests: pytest.Subtests, client: str) -> None:
    directory, url = objects
    finished = platform.start("checks.py", "buckets", client=client, deadline_s=300, S3_ENDPOINT=url).end()
    results = [json.loads(line) for line in finished.out.splitlines() if line.startswith('{"check"')]
    assert len(results) == 7 and not finished.code, finished.text[-8000:]
    for result in results:
        with subtests.test(result["check"]):
            assert result["error"] is None, result["error"]
    with subtests.test("objects"):
        kept = {str(path.relative_to(directory)) for path in directory.rglob("*._S3rver_object")}
        names = ("deep/er/small", "large", "changes/two", "changes/three", "part/name")
        assert kept == {f"{name}._S3rver_object" for name in names}


def test_nothing_is_left_when_the_agent_is_killed(platform: Platform, objects: tuple[Path, str]) -> None:
    program = platform.start("-m", "modal", "run", str(PROGRAMS / "buckets.py"), deadline_s=300, S3_ENDPOINT=objects[1])
    try:
        program.until("mounted: True")
        found = traces(platform.settings)
        clients = [int(line.partition(":")[0]) for line in found["processes"] if "rclone" in line]
        assert len(clients) == 1 and found["mounts"] == [], found
        watched = os.pidfd_open(clients[0])
        try:
            assert b"S3RVER" not in Path(f"/proc/{clients[0]}/cmdline").read_bytes()
            platform.kill("node")
            assert select.select([watched], [], [], LIMIT_S)[0], "rclone goes on without the agent"
        finally:
            os.close(watched)
    finally:
        program.kill()
