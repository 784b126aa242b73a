"""Base images from the local store and from a registry that runs here."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilotlight.config import Settings
from pilotlight.core.errors import Busy, InvalidInput, NotFound
from pilotlight.images import debian
from pilotlight.images.bases import Bases, Pull
from pilotlight.images.layers import LayerStore
from pilotlight.images.local import IMPORTED, PULLED, LocalImages
from pilotlight.images.references import debian_base, parse_reference
from pilotlight.images.registry import NoRegistry, Registry
from pilotlight.images.surroundings import Surroundings
from pilotlight.images.trees import Tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("skopeo"), reason="needs root (owners, whiteouts) and skopeo")
CONFIG = {"Env": ["PATH=/bin", "A=1"], "WorkingDir": "/w", "Cmd": ["run"], "Entrypoint": None, "User": "me"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state", cache=tmp_path / "cache")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A docker archive of two layers; the second deletes a file and hides a directory of the first."""
    root = tmp_path / "archive"
    layers = [{"etc/one": "1", "etc/two": "2", "d/x": "x"}, {"etc/.wh.two": "", "d/.wh..wh..opq": "", "d/y": "y"}]
    names: list[str] = []
    for number, files in enumerate(layers):
        for name, text in files.items():
            path = root / f"{number}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        names.append(f"layer{number}.tar")
        subprocess.run(["tar", "-cf", str(root / names[-1]), "-C", str(root / str(number)), "."], check=True)
    hashes = [subprocess.check_output(["sha256sum", str(root / name)], text=True).split()[0] for name in names]
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{h}" for h in hashes]},
    }
    (root / "config.json").write_text(json.dumps(image))
    (root / "manifest.json").write_text(json.dumps([{"Config": "config.json", "RepoTags": ["own/image:1"], "Layers": names}]))
    path = tmp_path / "image.tar"
    subprocess.run(["tar", "-cf", str(path), "-C", str(root), "config.json", "manifest.json", *names], check=True)
    return path


@pytest.fixture
def registry_port(tmp_path: Path) -> Iterator[int]:
    """A registry of our own; ready when its port takes connections."""
    if not shutil.which("docker-registry"):
        pytest.skip("needs docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tmp_path / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}}))
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the registry does not start"
        yield port
    finally:
        process.terminate()
        process.wait()


def bases_of(settings: Settings, surroundings: Surroundings | None = None) -> Bases:
    layers = LayerStore(settings.layers_dir)
    surroundings = surroundings or Surroundings()
    return Bases(settings, surroundings, layers, LocalImages(settings, layers), Registry(settings, surroundings, layers))


def check_content(settings: Settings, layers: tuple[str, ...]) -> None:
    tree = Tree(LayerStore(settings.layers_dir).paths(layers))
    assert tree.read_text("/etc/one") == "1"
    assert tree.find("/etc/two") is None
    assert list(tree.entries("/d")) == ["y"]


def test_a_docker_archive(settings: Settings, archive: Path) -> None:
    images = LocalImages(settings)
    added = asyncio.run(images.import_image("own/image:1", archive))
    assert (added.reference, added.source, added.user, added.workdir) == ("docker.io/own/image:1", IMPORTED, "me", "/w")
    assert list(added.config().env) == ["PATH=/bin", "A=1"]
    check_content(settings, added.layers)
    assert images.list_images() == [added]
    image = asyncio.run(bases_of(settings).resolve("own/image:1", lambda line: None))
    assert image.layers == added.layers
    assert images.remove_image("own/image:1") == added
    with pytest.raises(NotFound, match="no local image"):
        images.remove_image("own/image:1")


def test_an_oci_layout(settings: Settings, archive: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    subprocess.run(["skopeo", "copy", "--quiet", f"docker-archive:{archive}", f"oci:{layout}:1"], check=True)
    added = asyncio.run(LocalImages(settings).import_image("own/image:1", layout))
    check_content(settings, added.layers)


def test_a_root_directory(settings: Settings, tmp_path: Path, layer: Callable[..., Path]) -> None:
    root = layer(tmp_path / "root", {"bin/x": "x", "etc/passwd": "p"})
    added = asyncio.run(LocalImages(settings).import_image("mine", root))
    assert Tree(LayerStore(settings.layers_dir).paths(added.layers)).read_text("/bin/x") == "x"
    assert asyncio.run(LocalImages(settings).import_image("mine", root)).layers == added.layers


def test_what_can_not_be_imported(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("x")
    for name, error, message in (
        ("empty", InvalidInput, "neither an OCI layout"),
        ("text", InvalidInput, "not an archive"),
        ("none", NotFound, "nothing at"),
    ):
        with pytest.raises(error, match=message):
            asyncio.run(LocalImages(settings).import_image("a", tmp_path / name))


def test_a_registry(settings: Settings, archive: Path, registry_port: int) -> None:
    place = f"docker://127.0.0.1:{registry_port}/own/image:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"docker-archive:{archive}", place], check=True)
    mirrored = settings.model_copy(update={"registry_mirror": f"127.0.0.1:{registry_port}", "registry_insecure": True})
    bases = bases_of(mirrored)
    image = asyncio.run(bases.resolve("own/image:1", lambda line: None))
    check_content(settings, image.layers)
    assert list(image.config.cmd) == ["run"]
    known = LocalImages(settings).find_image("own/image:1")
    assert known is not None
    assert known.source == PULLED
    # What was pulled is not asked for again, unless that is wanted; a registry that answers is believed.
    assert asyncio.run(bases_of(settings).resolve("own/image:1", lambda line: None)).layers == image.layers
    assert asyncio.run(bases.resolve("own/image:1", lambda line: None, Pull(force=True))).layers == image.layers
    with pytest.raises(NotFound, match=r"has no image docker\.io/library/python:3\.11-slim"):
        asyncio.run(bases.resolve("python:3.11-slim", lambda line: None))


def test_no_registry_is_told_from_no_image(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    silent = settings.model_copy(update={"registry_mirror": f"127.0.0.1:{port}", "registry_insecure": True})
    layers = LayerStore(settings.layers_dir)
    now = 0.0
    registry = Registry(silent, Surroundings(), layers, clock=lambda: now)

    async def twice() -> None:
        for _ in range(2):
            with pytest.raises(NoRegistry, match=rf"no registry answers at 127\.0\.0\.1:{port}"):
                await registry.pull(parse_reference("own/image"))

    asyncio.run(twice())
    with pytest.raises(Busy, match=r"is not in the local store, and no registry answers .*pilotlight image import"):
        asyncio.run(bases_of(silent).resolve("own/image", lambda line: None))
    with pytest.raises(InvalidInput, match=r"no release of Debian has Python 3\.12"):
        asyncio.run(bases_of(silent).resolve("python:3.12-slim", lambda line: None))


def test_a_base_that_is_a_layer_already_is_not_made_again(settings: Settings) -> None:
    """The machine's cache, from which the layer was made, may be gone."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    silent = settings.model_copy(update={"registry_mirror": f"127.0.0.1:{port}", "registry_insecure": True})
    base = debian_base(parse_reference("python:3.11-slim-bookworm"))
    assert base is not None
    packages = "Package: python3-minimal\nVersion: 3.11.2-1+b1\n\nPackage: python3.11-minimal\nVersion: 3.11.2-6+deb12u9\n\n"

    async def fill(content: Path) -> None:
        for name, text in {"etc/debian_version": "12.15\n", "var/lib/dpkg/status": packages}.items():
            (content / name).parent.mkdir(parents=True)
            (content / name).write_text(text)

    layer_id = debian.base_id(base, "")
    asyncio.run(LayerStore(silent.layers_dir).make(layer_id, parent="", command="FROM python", fill=fill))
    said: list[str] = []
    image = asyncio.run(bases_of(silent).resolve("python:3.11-slim-bookworm", said.append))
    assert image.layers == (layer_id,)
    assert "PYTHON_VERSION=3.11.2" in image.config.env
    assert "Debian bookworm (12.15) with Python 3.11.2" in said[-1]
