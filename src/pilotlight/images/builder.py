"""Builds: the commands of a Dockerfile, made into layers.

Invariant: what a build reports as done is on disk and whole; a build that fails or is stopped leaves no process and no half layer,
and keeps the layers of the steps before, so that the next try starts there.
"""

import asyncio
import hashlib
import posixpath
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pilotlight.config import Settings
from pilotlight.core.containers import Bind, ContainerRuntime
from pilotlight.core.errors import InvalidInput, NotBuilt, PilotlightError
from pilotlight.images import copying, dockerfile, words
from pilotlight.images.bases import Bases, Pull
from pilotlight.images.dockerfile import Dockerfile, Instruction
from pilotlight.images.layers import Fill, LayerStore, step_id
from pilotlight.images.local import LocalImages
from pilotlight.images.mounts import Mounts, relative_path
from pilotlight.images.probe import Probe
from pilotlight.images.registry import Auth, Registry
from pilotlight.images.stages import StageState, declared, described, state_of
from pilotlight.images.steps import Command, Say, Steps
from pilotlight.images.surroundings import surroundings_of
from pilotlight.images.trees import Tree
from pilotlight.volumes.mounting import bind_of
from pilotlight.volumes.places import Places
from pilotlight.wire import platform_pb2

DEFAULT_TIMEOUT_S = 3600
STDOUT = 1


class Builder:
    """Builds images on this machine; several builds may run at once, and share the steps that they have in common."""

    def __init__(
        self,
        settings: Settings,
        runtime: ContainerRuntime,
        layers: LayerStore,
        mounts: Mounts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        surroundings = surroundings_of(settings)
        registry = Registry(settings, surroundings, layers)
        self._layers = layers
        self._mounts = mounts
        self._clock = clock
        self._places = Places(settings.volumes_path)
        self._bases = Bases(settings, surroundings, layers, LocalImages(settings, layers), registry)
        self._steps = Steps(runtime, surroundings)
        self._probe = Probe(settings.probes_dir, self._steps)

    async def build(self, request: platform_pb2.StartBuild, say: Say) -> platform_pb2.BuildFinished:
        """Build the image; output goes to `say` as it comes. A build that fails is an answer, not an exception."""
        started = self._clock()
        timeout_s = request.timeout_s or DEFAULT_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s):
                finished = await self._finished(request, say)
        except TimeoutError:
            return _failed(request, f"The build of {request.build_id} took longer than {timeout_s} s and was stopped.", say)
        except PilotlightError as exc:
            return _failed(request, str(exc), say)
        except OSError as exc:
            return _failed(request, f"The build of {request.build_id} failed on this machine: {exc}. Check its disk space.", say)
        say(STDOUT, f"\nBuilt image {request.build_id} in {self._clock() - started:.2f}s\n")
        return finished

    async def _finished(self, request: platform_pb2.StartBuild, say: Say) -> platform_pb2.BuildFinished:
        if request.build_function:
            raise NotBuilt("Image.run_function is not supported yet. Do the work in run_commands, or in an enter hook of a class.")
        file = dockerfile.parse(request.dockerfile_commands)
        say(STDOUT, f"Building image {request.build_id}\n")
        context = await asyncio.to_thread(tempfile.mkdtemp, prefix="pilotlight-context-")
        try:
            # At the very paths that the image names: a link there, as containers of functions have it, would stay in the layer.
            volumes = tuple(bind_of(self._places, mount, mount.mount_path) for mount in request.volumes)
            files = await self._context(request, Path(context))
            build = _Build(request, file, say, self._layers, self._bases, self._steps, files, volumes)
            state = await build.run()
        finally:
            await asyncio.to_thread(shutil.rmtree, context, ignore_errors=True)
        paths = self._layers.paths(state.layers)
        facts = await self._probe.facts(state.layers, paths, state.env)
        return platform_pb2.BuildFinished(
            build_id=request.build_id,
            ok=True,
            layers=state.layers,
            config=state.config(),
            python_packages=facts.packages,
            python_version=facts.python_version,
            libc_version=facts.libc_version,
        )

    async def _context(self, request: platform_pb2.StartBuild, directory: Path) -> "_Context":
        layers = [await self._mounts.layer(request.context_mount)] if request.context_mount.files else []
        return await asyncio.to_thread(_Context, layers, request, directory)


class _Context:
    """The files that COPY reads: the context mount, and over it the files that came with the request."""

    def __init__(self, layers: list[Path], request: platform_pb2.StartBuild, directory: Path) -> None:
        self.known = {f"/{relative_path(file.path)}": f"{file.sha256} {file.mode:o}" for file in request.context_mount.files}
        for path, data in sorted(request.context_files.items()):
            name = relative_path(path)
            place = directory / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            place.chmod(0o644)
            self.known[f"/{name}"] = hashlib.sha256(data).hexdigest()
        directory.chmod(0o755)
        self.tree = Tree([*layers, directory])


class _Build:
    """One build. Stages are built when something needs them, each once."""

    def __init__(
        self,
        request: platform_pb2.StartBuild,
        file: Dockerfile,
        say: Say,
        layers: LayerStore,
        bases: Bases,
        steps: Steps,
        context: _Context,
        volumes: tuple[Bind, ...],
    ) -> None:
        self._request = request
        self._file = file
        self._say = say
        self._layers = layers
        self._bases = bases
        self._steps = steps
        self._context = context
        self._volumes = volumes
        self._salt = request.build_id if request.ignore_cache else ""
        self._done: dict[int, StageState] = {}
        self._count = 0
        self._outer: dict[str, str] = {}
        auth = request.registry_auth
        self._pull = Pull(Auth(auth.username, auth.password) if auth.username else None, request.force_pull)

    async def run(self) -> StageState:
        for instruction in self._file.outer_args:
            self._outer |= declared(instruction, dict(self._outer), self._request.build_args)
        return await self._stage(len(self._file.stages) - 1)

    async def _stage(self, index: int) -> StageState:
        if index not in self._done:
            stage = self._file.stages[index]
            base = words.expand(stage.base, self._outer)
            state = await self._base(base, index)
            self._announce(f"FROM {base}" + (f" AS {stage.name}" if stage.name else ""))
            for instruction in stage.instructions:
                self._announce(instruction.text)
                state = await self._apply(state, instruction, index)
            self._done[index] = replace(state, args={})
        return self._done[index]

    def _announce(self, text: str) -> None:
        self._say(STDOUT, f"\n=> Step {self._count}: {text}\n")
        self._count += 1

    async def _base(self, name: str, before: int) -> StageState:
        """What FROM or COPY --from names: an image of ours, an earlier stage, or a base image."""
        request = self._request
        if name in request.named_bases:
            base = request.named_bases[name]
            return state_of(tuple(base.layers), base.config)
        if (earlier := self._file.stage_index(name, before)) is not None:
            return await self._stage(earlier)
        if name == "base" and request.base_layers:
            return state_of(tuple(request.base_layers), request.base_config)
        image = await self._bases.resolve(name, lambda line: self._say(STDOUT, line + "\n"), self._pull)
        return state_of(image.layers, image.config)

    async def _apply(self, state: StageState, instruction: Instruction, stage: int) -> StageState:
        given = {**self._outer, **self._request.build_args}
        if instruction.name == "RUN":
            return await self._command(state, instruction)
        if instruction.name in ("COPY", "ADD"):
            return await self._copy(state, instruction, stage)
        after = described(state, instruction, given)
        assert after is not None, instruction.name
        return await self._with_workdir(after) if instruction.name == "WORKDIR" else after

    async def _command(self, state: StageState, instruction: Instruction) -> StageState:
        _check_run_flags(instruction)
        request = self._request
        args = tuple(dockerfile.argv(instruction, state.shell))
        secrets = dict(request.secrets)
        definition: list[Any] = [instruction.name, args, dict(state.env), state.workdir, state.user]
        if request.volumes:
            definition.append(sorted([mount.mount_path, mount.volume_id, *mount.sub_path] for mount in request.volumes))
        if request.gpu_uuids:
            definition.append(["gpus", request.gpu_kind, len(request.gpu_uuids)])
        layer_id = step_id(state.layers, definition, secrets=secrets, build_args=dict(state.args), salt=self._salt)
        below = self._layers.paths(state.layers)
        home = await asyncio.to_thread(_home, below, state.user)
        env = {"HOME": home, **state.args, **state.env, **secrets}

        async def fill(content: Path) -> None:
            network = instruction.flag("network") == "none"
            gpus = tuple(request.gpu_uuids)
            command = Command(below, args, env, state.workdir or "/", state.user, content, network, self._volumes, gpus)
            await self._steps.check(command, instruction.text, self._say)

        return await self._made(state, layer_id, instruction.text, fill)

    async def _copy(self, state: StageState, instruction: Instruction, stage: int) -> StageState:
        below = self._layers.paths(state.layers)
        sources, target = _operands(instruction, state)
        image = Tree(below)
        if instruction.heredocs:
            raise InvalidInput(f"Line {instruction.line}: COPY of a here-document is not supported. Use RUN cat > FILE <<EOF.")
        if origin := words.expand(instruction.flag("from"), state.variables):
            other = await self._base(origin, stage)
            tree, content = Tree(self._layers.paths(other.layers)), list(other.layers)
        else:
            tree = self._context.tree
            matches = await asyncio.to_thread(copying.find_sources, tree, sources)
            content = [copying.files_hash(matches, self._context.known)]
        # Files of the context belong to whoever sent them: root here. Those of another image keep their owner.
        default = copying.Owner(-1, -1) if origin else copying.Owner(0, 0)
        owner = copying.parse_owner(words.expand(instruction.flag("chown"), state.variables), image, default)
        mode = copying.parse_mode(words.expand(instruction.flag("chmod"), state.variables))
        request = copying.Copy(tuple(sources), target, tree, owner, mode, instruction.name == "ADD")
        definition = [instruction.name, sources, target, owner.uid, owner.gid, mode, sorted(instruction.flags)]
        layer_id = step_id(state.layers, definition, content=content, salt=self._salt)

        async def fill(directory: Path) -> None:
            await asyncio.to_thread(copying.copy, request, below, directory)

        return await self._made(state, layer_id, instruction.text, fill)

    async def _with_workdir(self, state: StageState) -> StageState:
        """WORKDIR makes its directory where it is missing."""
        below = self._layers.paths(state.layers)
        image = Tree(below)
        path = image.resolve(state.workdir)
        if image.find(path) is not None:
            return state
        owner = copying.parse_owner(state.user, image, copying.Owner(0, 0))

        async def fill(directory: Path) -> None:
            await asyncio.to_thread(copying.make_directory, path, owner, below, directory)

        layer_id = step_id(state.layers, ["WORKDIR", str(path), owner.uid, owner.gid], salt=self._salt)
        return await self._made(state, layer_id, f"WORKDIR {state.workdir}", fill)

    async def _made(self, state: StageState, layer_id: str, text: str, fill: Fill) -> StageState:
        parent = state.layers[-1] if state.layers else ""
        if not await self._layers.make(layer_id, parent=parent, command=text, fill=fill):
            self._say(STDOUT, "Already built: taken from the cache\n")
        return state.with_layer(layer_id)


def _failed(request: platform_pb2.StartBuild, error: str, say: Say) -> platform_pb2.BuildFinished:
    say(2, f"\n{error}\n")
    return platform_pb2.BuildFinished(build_id=request.build_id, ok=False, error=error)


def _operands(instruction: Instruction, state: StageState) -> tuple[list[str], str]:
    """Sources and the absolute target of a COPY, a slash at its end kept; errors: InvalidInput."""
    listed = words.json_list(instruction.rest) or words.split(instruction.rest)
    paths = [words.expand(word, state.variables) for word in listed]
    if len(paths) < 2:
        raise InvalidInput(f"Line {instruction.line}: {instruction.name} takes a source and a target, not {instruction.rest!r}.")
    for source in paths[:-1]:
        if "://" in source or source.startswith("git@"):
            raise InvalidInput(f"Line {instruction.line}: {instruction.name} of {source} is not supported. Fetch it with RUN curl.")
    target = posixpath.join("/", state.workdir, paths[-1])
    keeps_slash = target.endswith(("/", "/."))
    return paths[:-1], posixpath.normpath(target).rstrip("/") + ("/" if keeps_slash else "") or "/"


def _check_run_flags(instruction: Instruction) -> None:
    for key, value in instruction.flags:
        kind = next((part.partition("=")[2] for part in value.split(",") if part.startswith("type=")), "bind")
        # A cache that is always empty changes nothing but the time that a step takes.
        if key == "mount" and kind not in ("cache", "tmpfs"):
            raise InvalidInput(
                f"Line {instruction.line}: RUN --mount=type={kind} is not supported. Use COPY for files, and secrets= for secrets."
            )


def _home(layers: tuple[Path, ...], user: str) -> str:
    name = user.partition(":")[0] or "root"
    for line in Tree(layers).read_text("/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) > 5 and name in (fields[0], fields[2]):
            return fields[5]
    return "/root" if name in ("root", "0") else "/"
