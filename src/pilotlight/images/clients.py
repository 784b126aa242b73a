"""The client inside containers: its package at /pkg, and what it depends on at /__modal/deps, as layers over any image.

Invariant: both are of the version that the caller's program was defined with, made once on this machine for all images, and never
part of an image. No code of an image has a hand in what others are given: our own Python compiles for those that have the same, and
what other Pythons make of it lies in a layer of their own (`client_bytecode`).
"""

import asyncio
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
import uv as uv_package

from pilotlight.config import Settings
from pilotlight.core.containers import ContainerRuntime
from pilotlight.core.errors import InvalidInput, NotFound
from pilotlight.images import programs
from pilotlight.images.client_bytecode import ClientBytecode
from pilotlight.images.compiling import Compiler
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.probe import Probe
from pilotlight.images.stages import state_of
from pilotlight.images.steps import Steps
from pilotlight.images.surroundings import surroundings_of
from pilotlight.wire import platform_pb2

RECIPE = 2  # raise it when what is made changes; in layers of 1 was what any image's Python had left there
PACKAGES = ("modal", "modal_proto", "modal_version", "synchronicity")
PACKAGES_DIR = "pkg"
DEPENDENCIES_DIR = "__modal/deps"
PINS_DIRS = ("modal/builder", "modal/requirements")  # of a client: the first since 1.2, the second before
LAST_BUILDER_WITH_DEPENDENCIES_INSIDE = "2024.10"
INSTALL_TIMEOUT_S = 600.0
COMPILE_TIMEOUT_S = 120.0
OWN_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
_VERSION = re.compile(r"\d+(?:\.\w+)*")
_MINOR = re.compile(r"\d\.\d{1,2}")
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^ ;]+)")
# Found before any other by PYTHONPATH; appended, so that the image's own packages win.
_SITECUSTOMIZE = f"import sys\n\nsys.path.append('/{DEPENDENCIES_DIR}')\n"

log = structlog.get_logger()


@dataclass(frozen=True)
class Target:
    """The image that a layer is made for, as it says itself: what its Python and its C library are."""

    minor: str
    libc_version: str = ""


class ClientPackages:
    """Makes and keeps the layers that go over an image when a function of it runs."""

    def __init__(self, settings: Settings, runtime: ContainerRuntime, layers: LayerStore) -> None:
        self._surroundings = surroundings_of(settings)
        self._images = layers
        self._made = LayerStore(settings.cache / "clients")
        compiler = Compiler(runtime, self._surroundings, COMPILE_TIMEOUT_S)
        self._compiled = ClientBytecode(settings.node_dir / "client_bytecode", compiler, layers)
        self._probe = Probe(settings.probes_dir, Steps(runtime, self._surroundings))
        self._uv_cache = settings.cache / "uv"
        self._pins: dict[tuple[Path, str], str | None] = {}  # by client layer, whose content never changes, and builder

    async def layers_for(
        self, client_version: str, builder_version: str, layer_ids: Sequence[str], config: platform_pb2.ImageConfig
    ) -> tuple[Path, ...]:
        """What to lay over this image, lowest first; a few milliseconds once it is made. Without a builder: the client alone.

        Errors: InvalidInput where the image has no Python, NotFound for a missing layer, or where the client can't be had.
        """
        layers, env = self._images.paths(layer_ids), dict(state_of((), config).env)
        facts = await self._probe.facts(layer_ids, layers, env)
        if not facts.python_version:
            raise InvalidInput(
                "The image has no Python on its PATH, so no function can run in it. Add one: add_python= of from_registry."
            )
        if not _MINOR.fullmatch(facts.python_minor):
            raise InvalidInput(f"The image's Python says that it is {facts.python_version[:40]!r}, which is no version of Python.")
        target = Target(facts.python_minor, facts.libc_version)
        packages = [await self._client_layer(client_version)]
        if dependencies := await self._dependency_layer(client_version, builder_version, target):
            packages.append(dependencies)
        if target.minor != OWN_MINOR and (compiled := await self._compiled.layer(layer_ids, env, packages)):
            return (*packages, compiled)
        return tuple(packages)

    async def collect(self) -> None:
        """Remove what images made that are gone."""
        await self._compiled.collect()

    def sweep(self) -> None:
        """Remove what an interrupted agent left."""
        self._compiled.sweep()

    async def _client_layer(self, client_version: str) -> Path:
        """A directory that holds /pkg with this version of the client, with bytecode for our own Python."""
        version = client_version.partition("+")[0]
        if not _VERSION.fullmatch(version):
            raise InvalidInput(f"{client_version!r} is not a version of the client.")
        layer_id = definition_id("client", version, OWN_MINOR, RECIPE)

        async def fill(content: Path) -> None:
            packages = content / PACKAGES_DIR
            if version == _installed("modal"):
                await asyncio.to_thread(_copy_installed, packages)
            else:
                await self._fetch(version, packages, content.with_name("fetched"))
            await _compile(content, PACKAGES_DIR)

        await self._made.make(layer_id, parent="", command=f"client {version}", fill=fill)
        return self._made.path(layer_id)

    async def _dependency_layer(self, client_version: str, builder_version: str, target: Target) -> Path | None:
        """A directory with /__modal/deps; None where the image itself has them."""
        if builder_version <= LAST_BUILDER_WITH_DEPENDENCIES_INSIDE:
            return None
        client = await self._client_layer(client_version)
        if (client, builder_version) not in self._pins:
            self._pins[client, builder_version] = await asyncio.to_thread(_pins, client / PACKAGES_DIR, builder_version)
        pins = self._pins[client, builder_version]
        if pins is None:
            raise InvalidInput(f"Client {client_version} does not know image builder {builder_version}. Upgrade the client.")
        system = _uv_platform(target.libc_version)
        layer_id = definition_id("dependencies", pins, target.minor, system, OWN_MINOR, RECIPE)

        async def fill(content: Path) -> None:
            (content / "__modal").mkdir(mode=0o755)
            await self._install_pins(pins.splitlines(), content / DEPENDENCIES_DIR, target.minor, system)
            (content / PACKAGES_DIR).mkdir(mode=0o755)
            (content / PACKAGES_DIR / "sitecustomize.py").write_text(_SITECUSTOMIZE)
            if target.minor == OWN_MINOR:
                await _compile(content, DEPENDENCIES_DIR)

        command = f"dependencies of builder {builder_version} for Python {target.minor}"
        await self._made.make(layer_id, parent="", command=command, fill=fill)
        return self._made.path(layer_id)

    async def _fetch(self, version: str, packages: Path, scratch: Path) -> None:
        """The client from the package index, with the synchronicity that it asks for."""
        problem = await self._install([f"modal=={version}"], scratch)
        if not problem:
            problem = await self._install([await asyncio.to_thread(_synchronicity, scratch)], scratch)
        if problem:
            raise NotFound(
                f"Client {version}, which this program was defined with, is not on this machine ({_installed('modal')} is), and "
                f"the package index does not give it: {problem} Check the index (PILOTLIGHT_PIP_INDEX_URL), or use client "
                f"{_installed('modal')}."
            )
        await asyncio.to_thread(_move_packages, scratch, packages)

    async def _install_pins(self, lines: Sequence[str], target: Path, python: str, system: str) -> None:
        """Install the pins; one that the index lacks is replaced by the nearest version that it has."""
        wanted = [line for line in (line.strip() for line in lines) if line and not line.startswith("#")]
        for_image = ["--python-version", python, "--python-platform", system, "--only-binary", ":all:"]
        problem = ""
        for _ in range(2 * len(wanted) + 1):
            problem = await self._install(wanted, target, *for_image)
            relaxed = [_relaxed(line) if _is_named(line, problem) else line for line in wanted]
            if not problem or relaxed == wanted:
                break
            log.info("client_dependency_relaxed", wanted=[line for line in wanted if line not in relaxed])
            wanted = relaxed
        if problem:
            raise NotFound(
                f"What the client depends on can't be had from the package index: {problem} Check PILOTLIGHT_PIP_INDEX_URL."
            )

    async def _install(self, requirements: Sequence[str], target: Path, *options: str) -> str:
        """Install into a directory without dependencies; returns what is wrong, empty for nothing."""
        command = [
            uv_package.find_uv_bin(),
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--link-mode",
            "copy",
            "--python",
            sys.executable,
        ]
        command += ["--cache-dir", str(self._uv_cache), *self._surroundings.uv_arguments(), *options, "--target", str(target)]
        try:
            finished = await programs.run([*command, *requirements], env=self._surroundings.host_env(), timeout_s=INSTALL_TIMEOUT_S)
        except TimeoutError:
            return f"no answer within {INSTALL_TIMEOUT_S:g} s."
        return (" ".join(finished.errors.split()) or "uv failed.") if finished.code else ""


async def _compile(content: Path, below: str) -> None:
    """Compile by our own Python; what can't be compiled stays source."""
    arguments = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    await programs.run([sys.executable, *arguments, "-s", str(content), "-p", "/", str(content / below)])


def _pins(packages: Path, builder_version: str) -> str | None:
    """What this client wants beside it under this builder; None where it does not know the builder."""
    for directory in PINS_DIRS:
        path = packages / directory / f"{builder_version}.txt"
        if path.is_file():
            return path.read_text()
    return None


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _copy_installed(packages: Path) -> None:
    packages.mkdir(mode=0o755)
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise NotFound(f"The package {name} is not installed beside this platform. Install it again: make setup.")
        source = next(iter(spec.submodule_search_locations))
        shutil.copytree(source, packages / name, ignore=shutil.ignore_patterns("__pycache__"))


def _move_packages(scratch: Path, packages: Path) -> None:
    packages.mkdir(mode=0o755)
    for name in PACKAGES:
        if (scratch / name).is_dir():
            (scratch / name).rename(packages / name)
        else:  # modal_version was a module once
            (scratch / f"{name}.py").rename(packages / f"{name}.py")
    shutil.rmtree(scratch)


def _synchronicity(scratch: Path) -> str:
    """What the client that was fetched requires of synchronicity."""
    metadata = next(scratch.glob("modal-*.dist-info/METADATA")).read_text()
    wanted = re.search(r"(?m)^Requires-Dist: synchronicity ?\(?([^;)\n]*)", metadata)
    return f"synchronicity{wanted[1].strip() if wanted else ''}"


def _uv_platform(libc_version: str) -> str:
    machine = platform.machine()
    if libc_version == "musl":
        return f"{machine}-unknown-linux-musl"
    numbers = [int(part) for part in re.findall(r"\d+", libc_version[:40])[:2]]
    return f"{machine}-manylinux_2_28" if not numbers or numbers >= [2, 28] else f"{machine}-manylinux_2_17"


def _is_named(line: str, problem: str) -> bool:
    """Whether the complaint is about this requirement."""
    return re.search(rf"\b{re.escape(line.split(';')[0].strip())}(?![\w.])", problem) is not None


def _relaxed(line: str) -> str:
    """The requirement with its next weaker demand: this version or an older one, then this or a newer one."""
    requirement, semicolon, marker = line.partition(";")
    match = _PIN.match(requirement)
    relaxed = f"{match[1]}<={match[2]}" if match else requirement.replace("<=", ">=").strip()
    return f"{relaxed} {semicolon}{marker}" if semicolon else relaxed
