"""What code in real containers may do with the platform, through the stock client; `programs/permissions.py` holds the checks.

Everything that programs do in their own environment works · other environments are reached by name, never by an id · a restricted
function (`restrict_modal_access=True`) works on its inputs and does nothing else.
"""

import json
from typing import Any

import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e

OTHER = "elsewhere"


@pytest.fixture(scope="module")
def stolen(platform: Platform) -> str:
    """Ids of what is in another environment."""
    made = platform.try_run("-m", "modal", "environment", "create", OTHER)
    assert made.code == 0 or "exists" in made.text, made.text
    platform.run("permissions_elsewhere.py", "main")
    return platform.run("permissions_elsewhere.py", OTHER).out.splitlines()[-1]


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_permissions(platform: Platform, stolen: str, subtests: Any, client: str) -> None:
    finished = platform.start("checks.py", "permissions", client=client, OTHER=OTHER, STOLEN=stolen).end()
    results = [json.loads(line) for line in finished.out.splitlines() if line.startswith('{"check"')]
    assert results and finished.code == 0, finished.text[-8000:]
    for result in results:
        with subtests.test(result["check"]):
            assert result["error"] is None, result["error"]
