"""The official npm client on Node 22, unmodified: functions in real containers."""

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Platform, Program
from support.node_programs import TYPESCRIPT, node_command, node_environment, run_checks

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def deployed(platform: Platform) -> Iterator[Platform]:
    platform.modal("deploy", str(TYPESCRIPT / "app.py"), deadline_s=300)
    platform.modal("secret", "create", "typescript-secret", "COLOUR=red", "--force")
    yield platform
    platform.modal("app", "stop", "--yes", "typescript-tests")


@pytest.mark.parametrize("module", ["calls", "values", "blobs", "classes", "objects", "logs", "clients"])
def test_checks(deployed: Platform, module: str, subtests: Any) -> None:
    for result in run_checks(module, deployed.environment, deadline_s=400):
        with subtests.test(result["check"]):
            assert result["error"] is None, result["error"]


def test_calls_outlive_the_server(deployed: Platform) -> None:
    program = Program(node_command(TYPESCRIPT / "restart.ts"), node_environment(deployed.environment), 240.0)
    program.until("running")
    deployed.kill("server")
    finished = program.end()
    assert finished.code == 0 and "returned 13" in finished.out, finished.text
