"""What a stage of a Dockerfile has come to: layers, and what the image will say of its process. Pure.

Invariant: a state is a value; each instruction gives a new one, so that what a step depends on can be read from it.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pilotlight.core.errors import InvalidInput
from pilotlight.images import dockerfile, words
from pilotlight.images.dockerfile import Instruction
from pilotlight.wire import platform_pb2

DEFAULT_SHELL = ("/bin/sh", "-c")
MEANINGLESS = frozenset({"LABEL", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "MAINTAINER"})


@dataclass(frozen=True)
class StageState:
    """Layer ids are lowest first; `args` are the build arguments declared so far."""

    layers: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    args: Mapping[str, str] = field(default_factory=dict[str, str])
    workdir: str = ""
    user: str = ""
    shell: tuple[str, ...] = DEFAULT_SHELL
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        """What $NAME means in an instruction: the environment wins over arguments."""
        return {**self.args, **self.env}

    def config(self) -> platform_pb2.ImageConfig:
        """What the image says of a container's process."""
        env = [f"{name}={value}" for name, value in self.env.items()]
        return platform_pb2.ImageConfig(env=env, workdir=self.workdir, entrypoint=self.entrypoint, cmd=self.cmd, user=self.user)

    def with_layer(self, layer_id: str) -> "StageState":
        """The state with one more layer on top."""
        return replace(self, layers=(*self.layers, layer_id))


def state_of(layers: tuple[str, ...], config: platform_pb2.ImageConfig) -> StageState:
    """The state that an image is in when it is built on."""
    env = {name: value for name, _, value in (entry.partition("=") for entry in config.env)}
    return StageState(layers, env, {}, config.workdir, config.user, entrypoint=tuple(config.entrypoint), cmd=tuple(config.cmd))


def described(state: StageState, instruction: Instruction, given: Mapping[str, str]) -> StageState | None:
    """The state after an instruction that changes no file, None for one that does; `given` are arguments from outside."""
    variables = state.variables
    match instruction.name:
        case name if name in MEANINGLESS:
            return state
        case "ENV":
            return replace(state, env={**state.env, **dockerfile.assignments(instruction, variables)})
        case "ARG":
            return replace(state, args={**state.args, **declared(instruction, variables, given)})
        case "WORKDIR":
            path = words.expand(instruction.rest.strip(), variables)
            return replace(state, workdir=posixpath.normpath(posixpath.join("/", state.workdir, path)))
        case "USER":
            return replace(state, user=words.expand(instruction.rest.strip(), variables))
        case "SHELL":
            shell = words.json_list(instruction.rest)
            if not shell:
                raise InvalidInput(f'Line {instruction.line}: SHELL takes a JSON list, such as SHELL ["/bin/bash", "-c"].')
            return replace(state, shell=tuple(shell))
        case "CMD":
            return replace(state, cmd=tuple(dockerfile.argv(instruction, state.shell)))
        case "ENTRYPOINT":
            # As in Docker, a base image's CMD was meant for the base image's entrypoint.
            return replace(state, entrypoint=tuple(dockerfile.argv(instruction, state.shell)), cmd=())
        case _:
            return None


def declared(instruction: Instruction, variables: dict[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The build arguments that an ARG declares, those given from outside winning over its defaults."""
    values = dockerfile.assignments(instruction, variables)
    names = [part.partition("=")[0] for part in words.split(instruction.rest)]
    return {name: given.get(name, values.get(name, "")) for name in names if name in given or name in values}
