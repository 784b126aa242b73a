"""The Dockerfile language: what the client sends, and what people write."""

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.images import dockerfile
from pilotlight.images.dockerfile import Heredoc, Instruction


def only(*lines: str) -> Instruction:
    """The one instruction after FROM."""
    (stage,) = dockerfile.parse(["FROM base", *lines]).stages
    (instruction,) = stage.instructions
    return instruction


def test_what_the_client_sends_for_debian_slim() -> None:
    commands = [
        "FROM python:3.11.12-slim-bookworm",
        "RUN apt-get update",
        "RUN echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections",
        'CMD ["sleep", "172800"]',
    ]
    (stage,) = dockerfile.parse(commands).stages
    assert stage.base == "python:3.11.12-slim-bookworm"
    assert [instruction.name for instruction in stage.instructions] == ["RUN", "RUN", "CMD"]
    assert dockerfile.argv(stage.instructions[2], ("sh", "-c")) == ["sleep", "172800"]
    assert dockerfile.argv(stage.instructions[0], ("/bin/sh", "-c")) == ["/bin/sh", "-c", "apt-get update"]


def test_continuations_may_have_blanks_after_the_backslash_and_comments_inside() -> None:
    instruction = only("RUN cd /tmp/poetry && \\ ", "  # a comment", "", "  poetry install && \\", "  rm x")
    assert instruction.rest.split() == ["cd", "/tmp/poetry", "&&", "poetry", "install", "&&", "rm", "x"]
    assert instruction.line == 2


def test_comments_and_blank_lines_are_skipped_but_counted() -> None:
    instruction = only("# syntax=docker/dockerfile:1", "", "run echo '# not a comment'")
    assert (instruction.name, instruction.rest, instruction.line) == ("RUN", "echo '# not a comment'", 4)


def test_several_lines_in_one_command() -> None:
    (stage,) = dockerfile.parse(["FROM base\nRUN a\nRUN b"]).stages
    assert [instruction.rest for instruction in stage.instructions] == ["a", "b"]


def test_flags() -> None:
    instruction = only("COPY --from=ghcr.io/astral-sh/uv:latest --chown=1:2 --link /uv /.uv/uv")
    assert instruction.flag("from") == "ghcr.io/astral-sh/uv:latest"
    assert instruction.flag("link") == "true"
    assert instruction.flag("chmod") == ""
    assert instruction.rest == "/uv /.uv/uv"


def test_a_run_command_that_begins_with_dashes_only_after_flags() -> None:
    instruction = only("RUN --mount=type=cache,target=/root/.cache pip install x")
    assert instruction.flag("mount") == "type=cache,target=/root/.cache"
    assert instruction.rest == "pip install x"


def test_escape_directive() -> None:
    (stage,) = dockerfile.parse(["# escape=`", "FROM base", "RUN a `", "b"]).stages
    assert stage.instructions[0].rest.split() == ["a", "b"]


def test_heredoc_is_a_script_of_the_shell() -> None:
    instruction = only("RUN <<EOF", "echo a", "# stays", "EOF")
    assert instruction.heredocs == (Heredoc("EOF", "echo a\n# stays\n", False),)
    assert dockerfile.argv(instruction, ("sh", "-c")) == ["sh", "-c", "echo a\n# stays\n"]


def test_heredoc_for_a_command_is_left_to_the_shell() -> None:
    instruction = only("RUN cat <<'X' > /f", "$a", "X")
    assert dockerfile.argv(instruction, ("sh", "-c")) == ["sh", "-c", "cat <<'X' > /f\n$a\nX"]


def test_a_shift_is_no_heredoc() -> None:
    assert only("RUN echo $((1<<TWO))").rest == "echo $((1<<TWO))"
    assert only("RUN grep a <<<WORD").heredocs == ()


def test_stages() -> None:
    file = dockerfile.parse(["ARG V=1", "FROM a:$V AS Build", "RUN x", "FROM b", "COPY --from=build /x /y"])
    assert [(stage.base, stage.name) for stage in file.stages] == [("a:$V", "build"), ("b", "")]
    assert [instruction.rest for instruction in file.outer_args] == ["V=1"]
    assert file.stage_index("build", 1) == 0
    assert file.stage_index("0", 1) == 0
    assert file.stage_index("build", 0) is None
    assert file.stage_index("other", 1) is None


def test_env_forms() -> None:
    assert dockerfile.assignments(only("ENV A='b c' D=$E"), {"E": "f"}) == {"A": "b c", "D": "f"}
    assert dockerfile.assignments(only("ENV A b c"), {}) == {"A": "b c"}
    assert dockerfile.assignments(only("ENV A='x\ny'"), {}) == {"A": "x\ny"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["FROM base", "RUNN x"], "Line 2: RUNN is not an instruction"),
        (["RUN x"], "Line 1: RUN comes before any FROM"),
        (["# nothing"], "has no FROM"),
        (["FROM a b"], "Line 1: FROM takes one image"),
        (["FROM base", "", "COPY --form=x a b"], "Line 3: COPY has no flag --form"),
        (["FROM base", "COPY <<EOF /x", "text"], "Line 2: <<EOF is never ended"),
        (["FROM base", "RUN"], "Line 2: RUN needs something"),
        (["FROM base", "ONBUILD RUN x"], "Line 2: ONBUILD has no effect"),
    ],
)
def test_errors_name_the_line(lines: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        dockerfile.parse(lines)
