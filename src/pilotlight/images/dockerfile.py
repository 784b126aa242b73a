"""Lines of a Dockerfile, as the client sends them, read into stages of instructions. Pure: touches no file.

Invariant: what is not understood is an error that names the instruction and its line; nothing is skipped in silence but what cannot
change the image.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pilotlight.core.errors import InvalidInput
from pilotlight.images import words

KNOWN = frozenset(
    {"FROM", "RUN", "COPY", "ADD", "ENV", "WORKDIR", "CMD", "ENTRYPOINT", "USER", "SHELL", "ARG", "LABEL", "EXPOSE", "VOLUME"}
    | {"STOPSIGNAL", "HEALTHCHECK", "MAINTAINER", "ONBUILD"}
)
_FLAGS_OF = {
    "RUN": {"mount", "network", "security"},
    "COPY": {"from", "chown", "chmod", "link", "parents", "exclude"},
    "ADD": {"chown", "chmod", "link", "checksum", "exclude", "keep-git-dir"},
    "FROM": {"platform"},
    "HEALTHCHECK": {"interval", "timeout", "start-period", "start-interval", "retries"},
}
_HEREDOC = re.compile(r"""(?<!<)<<(-?)(["']?)([A-Za-z_][A-Za-z0-9_.]*)\2""")
_DIRECTIVE = re.compile(r"#\s*escape\s*=\s*(\S)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Heredoc:
    """Lines between <<NAME and NAME; `literal` where the name was quoted."""

    name: str
    text: str
    literal: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction: `rest` is its text without name and flags, `line` counts from 1."""

    name: str
    rest: str
    line: int
    flags: tuple[tuple[str, str], ...] = ()
    heredocs: tuple[Heredoc, ...] = ()

    def flag(self, name: str) -> str:
        """The last value of this flag; empty where it is absent, "true" where it stands alone."""
        return next((value for key, value in reversed(self.flags) if key == name), "")

    @property
    def text(self) -> str:
        """The instruction as a person would write it on one line."""
        flags = "".join(f"--{key}={value} " for key, value in self.flags)
        return f"{self.name} {flags}{self.rest}".rstrip()


@dataclass(frozen=True)
class Stage:
    """What follows one FROM: `base` may hold variables of `outer_args`."""

    base: str
    name: str
    line: int
    instructions: tuple[Instruction, ...] = ()


@dataclass(frozen=True)
class Dockerfile:
    """Stages in order; the last one is the image. `outer_args` are the ARG instructions before the first FROM."""

    stages: tuple[Stage, ...]
    outer_args: tuple[Instruction, ...] = field(default=())

    def stage_index(self, name: str, before: int) -> int | None:
        """The number of the earlier stage that COPY --from or FROM means by this name, or None."""
        if name.isdigit() and int(name) < before:
            return int(name)
        names = [stage.name for stage in self.stages[:before]]
        return names.index(name.lower()) if name and name.lower() in names else None


def parse(commands: Sequence[str]) -> Dockerfile:
    """Read the commands; each may hold several lines. Errors: InvalidInput, which names the line."""
    outer: list[Instruction] = []
    stages: list[Stage] = []
    body: list[Instruction] = []
    for instruction in _instructions(commands):
        if instruction.name == "FROM":
            if stages:
                stages[-1] = Stage(stages[-1].base, stages[-1].name, stages[-1].line, tuple(body))
            body = []
            stages.append(_stage(instruction))
        elif stages:
            body.append(instruction)
        elif instruction.name == "ARG":
            outer.append(instruction)
        else:
            raise InvalidInput(f"Line {instruction.line}: {instruction.name} comes before any FROM. Start with FROM.")
    if not stages:
        raise InvalidInput("The Dockerfile has no FROM, so there is nothing to build on. Start it with FROM.")
    stages[-1] = Stage(stages[-1].base, stages[-1].name, stages[-1].line, tuple(body))
    return Dockerfile(tuple(stages), tuple(outer))


def _stage(instruction: Instruction) -> Stage:
    parts = instruction.rest.split()
    if len(parts) == 1:
        return Stage(parts[0], "", instruction.line)
    if len(parts) == 3 and parts[1].upper() == "AS":
        return Stage(parts[0], parts[2].lower(), instruction.line)
    raise InvalidInput(f"Line {instruction.line}: FROM takes one image and perhaps AS NAME, not {instruction.rest!r}.")


def _instructions(commands: Sequence[str]) -> Iterator[Instruction]:
    lines = _lines(commands)
    escape = _escape(lines)
    at = 0
    while at < len(lines):
        start = at
        line = lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        text, at = _continued(lines, start, escape)
        if not text.strip():
            continue  # an escape, and nothing that it continues
        name = text.split(None, 1)[0].upper()
        heredocs: tuple[Heredoc, ...] = ()
        if name in ("RUN", "COPY", "ADD"):
            heredocs, at = _heredocs(lines, text, at, start)
        yield _instruction(text, start + 1, heredocs)


def _lines(commands: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for command in commands:
        # The client quotes values for a shell: one value of one ENV command may hold line ends.
        one_value = command[:4].upper() == "ENV " and "\n" in command
        lines.extend([command] if one_value else command.split("\n"))
    return lines


def _escape(lines: Sequence[str]) -> str:
    for line in lines:
        if not line.startswith("#"):
            break
        if match := _DIRECTIVE.match(line):
            return match[1]
    return "\\"


def _continued(lines: Sequence[str], at: int, escape: str) -> tuple[str, int]:
    """The logical line that starts here, and the number of the line after it. Blanks may follow the escape, as in Docker."""
    text = ""
    while at < len(lines):
        line = lines[at]
        at += 1
        if text and (not line.strip() or line.lstrip().startswith("#")):
            continue
        bare = line.rstrip(" \t\r")
        if not bare.endswith(escape):
            return text + line.rstrip("\r"), at
        text += bare[: -len(escape)]
    return text, at


def _heredocs(lines: Sequence[str], text: str, at: int, start: int) -> tuple[tuple[Heredoc, ...], int]:
    found: list[Heredoc] = []
    for dash, quote, name in _HEREDOC.findall(text):
        body: list[str] = []
        while at < len(lines) and (lines[at].lstrip("\t") if dash else lines[at]) != name:
            body.append(lines[at].lstrip("\t") if dash else lines[at])
            at += 1
        if at == len(lines):
            if not found and text.lstrip()[:3].upper() == "RUN":
                return (), at - len(body)  # a shell's own <<, or a shift: leave it to the shell
            raise InvalidInput(f"Line {start + 1}: <<{name} is never ended. Put {name} alone on a line after it.")
        at += 1
        found.append(Heredoc(name, "".join(line + "\n" for line in body), bool(quote)))
    return tuple(found), at


def _instruction(text: str, line: int, heredocs: tuple[Heredoc, ...]) -> Instruction:
    name, _, rest = text.strip().partition(" ") if "\t" not in text.strip().split(" ")[0] else text.strip().partition("\t")
    name, rest = name.upper(), rest.strip()
    if name not in KNOWN:
        raise InvalidInput(f"Line {line}: {name} is not an instruction of a Dockerfile, in {text.strip()!r}.")
    if name == "ONBUILD":
        raise InvalidInput(f"Line {line}: ONBUILD has no effect here. Write the instruction itself.")
    flags: list[tuple[str, str]] = []
    while name in _FLAGS_OF and rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        key, equals, value = flag[2:].partition("=")
        if key not in _FLAGS_OF[name]:
            raise InvalidInput(f"Line {line}: {name} has no flag --{key}. It has: {', '.join(sorted(_FLAGS_OF[name]))}.")
        flags.append((key, value if equals else "true"))
        rest = rest.lstrip()
    if not rest and name not in ("CMD", "ENTRYPOINT"):
        raise InvalidInput(f"Line {line}: {name} needs something after it.")
    return Instruction(name, rest, line, tuple(flags), heredocs)


def assignments(instruction: Instruction, variables: dict[str, str]) -> dict[str, str]:
    """What ENV, ARG or LABEL assigns, values expanded; an ARG without value is left out. Errors: InvalidInput."""
    parts = words.split(instruction.rest)
    if instruction.name != "ARG" and "=" not in parts[0]:
        name, _, value = instruction.rest.partition(" ")
        if not value.strip():
            raise InvalidInput(f"Line {instruction.line}: {instruction.name} {name} needs a value: write {name}=value.")
        return {name: words.expand(value.strip(), variables)}
    result: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if equals:
            result[words.expand(name, variables)] = words.expand(value, variables)
        elif instruction.name != "ARG":
            raise InvalidInput(f"Line {instruction.line}: {instruction.name} takes NAME=value, not {part!r}.")
    return result


def argv(instruction: Instruction, shell: Sequence[str]) -> list[str]:
    """The process that RUN, CMD or ENTRYPOINT means: the JSON form as it is, else through the shell."""
    text = instruction.rest
    if not text:
        return []
    if (listed := words.json_list(text)) is not None:
        return listed
    bodies = instruction.heredocs
    if bodies and _HEREDOC.fullmatch(text):
        return [*shell, bodies[0].text]
    tail = "".join(f"\n{body.text}{body.name}" for body in bodies)
    return [*shell, text + tail]
