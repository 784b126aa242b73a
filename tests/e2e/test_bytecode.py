"""What is deployed is compiled before it is called, and a program that changes its own source finds its change."""

import time
from pathlib import Path

import pytest
from conftest import FIRST_BUILD_S, PROGRAMS, Platform

pytestmark = pytest.mark.e2e

MADE_S = 120.0
CHECKED = 3


def test_what_is_deployed_is_compiled_before_it_is_called(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "compiled.py"
    program.write_text(
        f"{(PROGRAMS / program.name).read_text()}# {time.time_ns()}\n"
    )  # a platform that was kept may have the other
    made = platform.settings.node_dir / "bytecode"
    before = len(list(made.glob("*.json")))
    platform.modal("deploy", str(program), deadline_s=FIRST_BUILD_S)
    deadline = time.monotonic() + MADE_S
    while len(list(made.glob("*.json"))) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    called = platform.run("-c", "import modal; print(modal.Function.from_name('compiled', 'look').remote())")
    assert called.out.strip() == str({"flags": CHECKED, "before": "1", "after": "2"})
    platform.modal("app", "stop", "--yes", "compiled")
