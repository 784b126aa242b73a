"""With warm starts switched off, every container is made by the OCI runtime: nothing else is different.

The attacks of `test_escape.py` and the probe of `test_conformance.py` know both ways, too.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import FIRST_BUILD_S, Platform

pytestmark = pytest.mark.e2e

SWITCH = "PILOTLIGHT_WARM_STARTS"
CALL_TWICE = """
import modal
where = modal.Function.from_name("templates", "where")
print([where.remote()["warm"] for _ in range(2)])
"""


@pytest.fixture(scope="module")
def ordinary(platform: Platform) -> Iterator[Platform]:
    """The platform of all tests, with the switch off for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "false")
        platform.control("down")
        platform.control("up", "--detach", *platform.up_options)
    yield platform
    platform.control("down")
    platform.control("up", "--detach", *platform.up_options)


@pytest.mark.parametrize("program", ["functions", "broken_import"])
def test_programs_run(ordinary: Platform, checks: Callable[..., None], program: str) -> None:
    checks(program)


def test_containers_come_from_no_template(ordinary: Platform) -> None:
    ordinary.modal("deploy", "templates.py", deadline_s=FIRST_BUILD_S)
    assert ordinary.run("-c", CALL_TWICE).out.strip() == "[False, False]"
    assert ordinary.status()["templates"] == []
    failed = ordinary.try_run("-c", "import modal; modal.Function.from_name('templates', 'ends').remote(7)")
    assert failed.code and "7" in failed.err, failed.text
    ordinary.modal("app", "stop", "--yes", "templates")


def test_what_was_learned_is_kept_for_when_it_is_on_again(ordinary: Platform) -> None:
    assert Path(ordinary.settings.node_dir / "templates.json").exists()
