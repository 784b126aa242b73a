"""Who may be forked: nobody whose interpreter would have begun otherwise."""

from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight.core.containers import Bind, ContainerSpec, Hook, Recipe
from pilotlight.node.templates.fitness import MAX_ENVIRONMENT_BYTES, misfit

ARGS = ("/usr/bin/python", "-m", "modal._container_entrypoint")
RECIPE = Recipe((Path("/layer"),), ARGS, {"PATH": "/bin", "LANG": "C.UTF-8"})
SPEC = ContainerSpec("ta-1", (Path("/layer"), Path("/mount")), ARGS, {**RECIPE.env, "MODAL_TASK_ID": "ta-1", "PASSWORD": "x"})


def test_what_only_the_program_reads_may_differ() -> None:
    assert misfit(SPEC, RECIPE, read={"HOME", "MODAL_LOGLEVEL"}) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("PYTHONHASHSEED", "PYTHONPATH", "LD_PRELOAD", "LC_ALL", "LANG"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_SPINCOUNT", "NPY_DISABLE_CPU_FEATURES", "MODAL_PROFILE"),
    ],
)
def test_what_is_read_at_the_start_may_not(name: str) -> None:
    spec = replace(SPEC, env={**SPEC.env, name: "other"})
    assert name in misfit(spec, RECIPE, read={"MODAL_PROFILE"})


def test_what_the_template_has_and_the_container_lacks_counts_too() -> None:
    env = {name: value for name, value in SPEC.env.items() if name != "LANG"}
    assert "LANG" in misfit(replace(SPEC, env=env), RECIPE)


@pytest.mark.parametrize(
    "changes",
    [
        {"args": ("/bin/sh",)},
        {"user": "nobody"},
        {"upper": Path("/somewhere/layer")},
        {"hooks": (Hook("prestart", "/usr/bin/hook", ()),)},
        {"binds": (Bind(Path("/dev/nvidia0"), "/dev/nvidia0", is_device=True),)},
        {"env": {**SPEC.env, "LARGE": "x" * MAX_ENVIRONMENT_BYTES}},
        {"env": {**SPEC.env, "LARGE": "語" * (MAX_ENVIRONMENT_BYTES // 3)}},  # a message has it in ASCII, and longer
    ],
)
def test_what_a_fork_can_not_be(changes: dict[str, object]) -> None:
    assert misfit(replace(SPEC, **changes), RECIPE)  # type: ignore[arg-type]
