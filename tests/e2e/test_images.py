"""Images built in real containers: what the client sends, and what it finds afterwards."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pilotlight.config import Settings
from pilotlight.core.containers import Exit
from pilotlight.images import clients
from pilotlight.images.builder import Builder
from pilotlight.images.clients import ClientPackages
from pilotlight.images.layers import LayerStore
from pilotlight.images.mounts import LocalContent, Mounts
from pilotlight.images.stages import state_of
from pilotlight.images.steps import Command, Steps
from pilotlight.images.surroundings import surroundings_of
from pilotlight.images.trees import Tree
from pilotlight.node.runtime import Runtime
from pilotlight.wire import platform_pb2

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("crun", "mmdebstrap"))), reason="needs root, crun and mmdebstrap"
    ),
]

Image = platform_pb2.BuildFinished
NETWORK_SLOT = 58
BASE = "python:3.11.12-slim-bookworm"


@dataclass
class Bench:
    """A builder with all that it needs, and what it said."""

    settings: Settings
    runtime: Runtime
    layers: LayerStore
    builder: Builder
    said: list[str] = field(default_factory=list)

    async def build(self, *commands: str, on: Image | None = None, **fields: Any) -> Image:
        self.said.clear()
        request = platform_pb2.StartBuild(build_id="im-1", dockerfile_commands=commands, timeout_s=300, **fields)
        if on is not None:
            request.named_bases["base"].layers.extend(on.layers)
            request.named_bases["base"].config.CopyFrom(on.config)
        return await self.builder.build(request, lambda fd, text: self.said.append(text))

    async def run(self, image: Image, *args: str, over: Sequence[Path] = (), **env: str) -> tuple[Exit, str]:
        state = state_of(tuple(image.layers), image.config)
        layers = (*self.layers.paths(state.layers), *over)
        steps = Steps(self.runtime, surroundings_of(self.settings))
        return await steps.run(Command(layers, args, {**state.env, **env}, state.workdir), lambda fd, text: None)

    @property
    def log(self) -> str:
        return "".join(self.said)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state", network_slot=NETWORK_SLOT)


@asynccontextmanager
async def bench_of(settings: Settings) -> AsyncIterator[Bench]:
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(settings)
    await runtime.open()
    try:
        layers = LayerStore(settings.layers_dir)
        yield Bench(
            settings, runtime, layers, Builder(settings, runtime, layers, Mounts(settings, LocalContent(settings.objects_dir)))
        )
    finally:
        await runtime.close()
        shutil.rmtree(settings.run_dir, ignore_errors=True)


def litter(settings: Settings) -> list[str]:
    return [path.name for path in settings.layers_dir.iterdir() if path.name.startswith(".")]


def test_the_commands_of_the_client(settings: Settings) -> None:
    async def main() -> None:
        async with bench_of(settings) as bench:
            base = await bench.build(f"FROM {BASE}", "RUN apt-get update", "RUN apt-get install -y --no-install-recommends tree")
            assert base.ok, base.error
            assert base.python_version.startswith("3.11.")
            assert base.libc_version.startswith("glibc 2.")
            assert "=> Step 1: RUN apt-get update\n" in bench.log
            assert "Debian bookworm" in bench.log

            installed = await bench.build("FROM base", "RUN python -m pip install --upgrade pip", "RUN pip install six", on=base)
            assert installed.ok, installed.error
            assert "six" in installed.python_packages

            with_uv = await bench.build(
                "FROM base",
                "COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv",
                "RUN /.uv/uv pip install --python $(command -v python) --compile-bytecode idna",
                "ENV GREETING='hello there'",
                "WORKDIR /work",
                on=installed,
            )
            assert with_uv.ok, with_uv.error
            assert {"six", "idna", "pip"} <= set(with_uv.python_packages)
            program = "import six, idna, os; print(os.environ['GREETING'], os.getcwd(), sorted(os.environ))"
            ended, output = await bench.run(with_uv, "python", "-c", program)
            assert (ended.code, output.startswith("hello there /work")) == (0, True), output
            entries = dict(entry.partition("=")[::2] for entry in with_uv.config.env)
            assert not {"SSL_CERT_FILE", "PIP_INDEX_URL", "HOME"} & set(entries)

            again = await bench.build("FROM base", "RUN python -m pip install --upgrade pip", "RUN pip install six", on=base)
            assert again.layers == installed.layers
            assert bench.log.count("taken from the cache") == 2
            forced = await bench.build("FROM base", "RUN true", on=base, ignore_cache=True)
            assert forced.ok
            assert forced.layers[-1] != (await bench.build("FROM base", "RUN true", on=base)).layers[-1]
        assert litter(settings) == []

    uvloop.run(main())


def test_files_from_the_context(settings: Settings) -> None:
    content = b"print('from the mount')\n"
    digest = hashlib.sha256(content).hexdigest()
    (settings.objects_dir / "sha256").mkdir(parents=True)
    (settings.objects_dir / "sha256" / digest).write_bytes(content)
    mount = platform_pb2.Mount(
        mount_id="mo-1", files=[platform_pb2.MountEntry(path="/app/main.py", sha256=digest, size=len(content), mode=0o644)]
    )

    async def main() -> None:
        async with bench_of(settings) as bench:
            image = await bench.build(
                f"FROM {BASE}",
                "COPY . /root/",
                "COPY /.requirements.txt /.requirements.txt",
                "RUN cat /.requirements.txt && stat -c %u:%g:%a /root/app/main.py",
                context_mount=mount,
                context_files={"/.requirements.txt": b"six\n"},
            )
            assert image.ok, image.error
            assert "six\n0:0:644\n" in bench.log
            assert (await bench.run(image, "python", "/root/app/main.py"))[1] == "from the mount"

    uvloop.run(main())


def test_a_step_that_fails(settings: Settings) -> None:
    async def main() -> None:
        async with bench_of(settings) as bench:
            failed = await bench.build(f"FROM {BASE}", "RUN touch /kept", "RUN touch /lost; echo why it failed >&2; exit 3")
            assert not failed.ok
            assert "'RUN touch /lost; echo why it failed >&2; exit 3' ended with exit code 3" in failed.error
            assert "why it failed" in failed.error
            made = [record.command for record in bench.layers.list()]
            assert "RUN touch /kept" in made
            assert not any("/lost" in command for command in made)
            unknown = await bench.build(f"FROM {BASE}", "RUNN x")
            assert "Line 2: RUNN is not an instruction" in unknown.error
        assert litter(settings) == []

    uvloop.run(main())


def test_a_build_that_is_stopped_or_takes_too_long(settings: Settings) -> None:
    async def main() -> None:
        async with bench_of(settings) as bench:
            assert (await bench.build(f"FROM {BASE}")).ok
            running = asyncio.Event()

            def say(fd: int, text: str) -> None:
                if "running" in text and "RUN" not in text:
                    running.set()

            request = platform_pb2.StartBuild(build_id="im-2", dockerfile_commands=[f"FROM {BASE}", "RUN echo running; sleep 1000"])
            building = asyncio.create_task(bench.builder.build(request, say))
            async with asyncio.timeout(60):
                await running.wait()
                building.cancel()
                await asyncio.gather(building, return_exceptions=True)
            assert building.cancelled()
            request.timeout_s = 1
            late = await bench.builder.build(request, say)
            assert "took longer than 1 s" in late.error
        assert litter(settings) == []

    uvloop.run(main())


def test_two_builds_share_a_step(settings: Settings) -> None:
    async def main() -> None:
        async with bench_of(settings) as bench:
            one, two = await asyncio.gather(*(bench.build(f"FROM {BASE}", "RUN date +%N > /made") for _ in range(2)))
            assert one.ok, one.error
            assert two.ok, two.error
            assert one.layers == two.layers

    uvloop.run(main())


def test_stages(settings: Settings) -> None:
    async def main() -> None:
        async with bench_of(settings) as bench:
            image = await bench.build(
                f"FROM {BASE} AS maker",
                "RUN mkdir /out && echo made > /out/file",
                "FROM nobody/needs:this AS unused",
                "FROM scratch",
                "COPY --from=maker /out /",
            )
            assert image.ok, image.error
            assert len(image.layers) == 1
            assert Tree(bench.layers.paths(image.layers)).read_text("/file") == "made\n"
            assert image.python_version == ""

    uvloop.run(main())


def test_the_client_over_an_image(settings: Settings) -> None:
    async def main() -> None:
        async with bench_of(settings) as bench:
            image = await bench.build(f"FROM {BASE}")
            packages = ClientPackages(settings, bench.runtime, bench.layers)
            over = await packages.layers_for("1.6.4", "2025.06", list(image.layers), image.config)
            program = "import modal._container_entrypoint as m, aiohttp; print(m.__file__, aiohttp.__file__, m.__cached__)"
            ended, output = await bench.run(image, "python", "-c", program, over=over, PYTHONPATH="/root:/pkg")
            assert ended.code == 0, output
            package, dependency, compiled = output.split()
            assert package == "/pkg/modal/_container_entrypoint.py"
            assert dependency.startswith("/__modal/deps/aiohttp/")
            # Flags 1: by hash, never checked against the source.
            assert (over[0] / compiled.lstrip("/")).read_bytes()[4:8] == b"\x01\0\0\0"
            assert await packages.layers_for("1.6.4", "2024.10", list(image.layers), image.config) == over[:1]

    uvloop.run(main())


def test_the_client_compiled_by_the_image_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with bench_of(settings) as bench:
            image = await bench.build(f"FROM {BASE}", "RUN touch /above")
            monkeypatch.setattr(clients, "OWN_MINOR", "3.99")  # as if our own Python were another one
            own = Settings(state=settings.state, cache=settings.state / "cache", network_slot=NETWORK_SLOT)
            packages = ClientPackages(own, bench.runtime, bench.layers)
            over = await packages.layers_for("1.6.4", "", list(image.layers), image.config)
            assert len(over) == 2 and over[1].is_relative_to(settings.node_dir)
            sources = list(over[0].rglob("*.py"))
            assert len(list(over[1].rglob("*.pyc"))) > 0.9 * len(sources) > 100
            # It is left as it was, and has flags 1: what an interpreter can't use it replaces by its own, of flags 0.
            program = "import modal_version as m; print(m.__cached__, open(m.__cached__, 'rb').read(5)[4])"
            ended, output = await bench.run(image, "python", "-c", program, over=over, PYTHONPATH="/root:/pkg")
            assert ended.code == 0, output
            path, flags = output.split()
            assert flags == "1" and (over[1] / path.lstrip("/")).is_file()

    uvloop.run(main())
