"""Instructions that change no file."""

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.images import dockerfile
from pilotlight.images.layers import step_id
from pilotlight.images.stages import StageState, described, state_of
from pilotlight.wire import platform_pb2


def after(*lines: str, start: StageState | None = None, given: dict[str, str] | None = None) -> StageState:
    state = start or StageState(env={"PATH": "/bin"})
    for instruction in dockerfile.parse(["FROM base", *lines]).stages[0].instructions:
        changed = described(state, instruction, given or {})
        assert changed is not None
        state = changed
    return state


def test_env_is_expanded_from_what_was_before() -> None:
    state = after("ENV PATH=/x:$PATH A=1", "ENV B=$A A=2", "ENV C=$A")
    assert state.env == {"PATH": "/x:/bin", "A": "2", "B": "1", "C": "2"}


def test_workdir_is_relative_to_the_one_before() -> None:
    assert after("WORKDIR /a", "WORKDIR b", "WORKDIR ../c").workdir == "/a/c"
    assert after("ENV D=/d", "WORKDIR $D/e").workdir == "/d/e"


def test_arguments() -> None:
    state = after("ARG A=1", "ARG B", "ARG C=3", "ENV X=$A$B$C", given={"A": "9", "D": "hidden"})
    assert state.args == {"A": "9", "C": "3"}
    assert state.env["X"] == "93"


def test_process() -> None:
    state = after('SHELL ["/bin/bash", "-c"]', 'ENTRYPOINT ["run"]', "CMD serve $PORT", "USER me:us")
    assert state.entrypoint == ("run",)
    assert state.cmd == ("/bin/bash", "-c", "serve $PORT")
    assert state.user == "me:us"
    assert after('CMD ["a"]', "ENTRYPOINT []").cmd == ()


def test_shell_must_be_a_list() -> None:
    with pytest.raises(InvalidInput, match="SHELL takes a JSON list"):
        after("SHELL /bin/bash")


def test_what_writes_files_is_not_described_here() -> None:
    (stage,) = dockerfile.parse(["FROM base", "RUN x", "COPY a b"]).stages
    assert [described(StageState(), instruction, {}) for instruction in stage.instructions] == [None, None]


def test_config_there_and_back() -> None:
    config = platform_pb2.ImageConfig(env=["A=b=c"], workdir="/w", entrypoint=["e"], cmd=["c"], user="u")
    assert state_of((), config).config() == config


def test_a_step_has_one_id_for_one_definition() -> None:
    one = step_id(["a"], ["RUN", ["x"]], secrets={"K": "v"}, build_args={"A": "1"})
    assert len(one) == 64
    assert one == step_id(["a"], ["RUN", ["x"]], secrets={"K": "v"}, build_args={"A": "1"})
    others = [
        step_id(["b"], ["RUN", ["x"]], secrets={"K": "v"}, build_args={"A": "1"}),
        step_id(["a"], ["RUN", ["y"]], secrets={"K": "v"}, build_args={"A": "1"}),
        step_id(["a"], ["RUN", ["x"]], secrets={"K": "w"}, build_args={"A": "1"}),
        step_id(["a"], ["RUN", ["x"]], secrets={"K": "v"}, build_args={"A": "2"}),
        step_id(["a"], ["RUN", ["x"]], secrets={"K": "v"}, build_args={"A": "1"}, salt="im-1"),
        step_id(["a"], ["RUN", ["x"]], content=["h"], secrets={"K": "v"}, build_args={"A": "1"}),
    ]
    assert len({one, *others}) == 7
