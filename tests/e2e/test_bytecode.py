"""What is deployed is compiled before it is called, and a program that changes its own source finds its change."""

import time
from pathlib import Path

import pytest
from conftest import FIRST_BUILD_S, PROGRAMS, Platform

pytestmark = pytest.mark.e2e

MADE_S = 120.0
TOLD_S = 20.0
CHECKED = 3


def test_what_is_deployed_is_compiled_before_it_is_called(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "compiled.py"
    program.write_text(f"{(PROGRAMS / program.name).read_text()}# {time.time_ns()}\n")
    made = Made(platform.settings.node_dir / "bytecode")
    deadline = time.monotonic() + MADE_S
    while not made.is_there():
        assert time.monotonic() < deadline
        # A node that is away when an app is published is not told of it.
        platform.modal("deploy", str(program), deadline_s=FIRST_BUILD_S)
        made.wait()
    called = platform.run("-c", "import modal; print(modal.Function.from_name('compiled', 'look').remote())")
    assert called.out.strip() == str({"flags": CHECKED, "before": "1", "after": "2"})
    platform.modal("app", "stop", "--yes", "compiled")


class Made:
    """Bytecode of the program that was not there before: a platform that was kept may have that of another."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._before = self._found()

    def is_there(self) -> bool:
        return bool(self._found() - self._before)

    def wait(self) -> None:
        """Until it is there, or a while has passed."""
        soon = time.monotonic() + TOLD_S
        while not self.is_there() and time.monotonic() < soon:
            time.sleep(0.1)

    def _found(self) -> set[Path]:
        return set(self._directory.glob("*/root/__pycache__/compiled.*.pyc"))
