"""Stores at addresses of the node itself are refused: the node's network is not for programs."""

import asyncio
from pathlib import Path

import pytest

from pilotlight.core import errors
from pilotlight.core.containers import ContainerSpec
from pilotlight.node import buckets as module
from pilotlight.node.buckets import Buckets
from pilotlight.wire.platform_pb2 import BucketMount


def mount(directory: Path, endpoint: str, spec: ContainerSpec) -> None:
    async def run() -> None:
        buckets = Buckets(directory, lambda: -1, {})
        buckets.sweep()
        try:
            await buckets.mounted(spec, [BucketMount(mount_path="/b", bucket="things", endpoint=endpoint)])
        finally:
            await buckets.unmount(spec.container_id)

    asyncio.run(run())


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9980",
        "http://localhost",
        "http://[::1]:9000",
        "http://169.254.10.1",
        "http://0.0.0.0",
        "http://[::ffff:127.0.0.1]",
    ],
)
def test_a_store_on_this_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, spec: ContainerSpec
) -> None:
    monkeypatch.setattr(module, "PROGRAMS", {})
    with pytest.raises(errors.NotAllowed, match="PILOTLIGHT_BUCKET_ALLOW_LOCAL"):
        mount(tmp_path / "buckets", endpoint, spec)


def test_a_name_that_nobody_knows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    monkeypatch.setattr(module, "PROGRAMS", {})
    with pytest.raises(errors.WrongState, match="is not known"):
        mount(tmp_path / "buckets", "http://nowhere.invalid", spec)


@pytest.fixture
def spec() -> ContainerSpec:
    return ContainerSpec("ta-1", (), ("true",))
