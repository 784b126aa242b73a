"""Classes through the stock client, in real containers; `programs/classes.py` holds the checks.

enter, exit, method (sync, async, generator) · parameter (str, int, bool, bytes, defaults) · a pool per parameter set ·
with_options, with_concurrency, with_batching · an enter hook that fails. `Cls.from_name` is in test_functions.py.
"""

from collections.abc import Callable

import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_classes(checks: Callable[..., None], client: str) -> None:
    checks("classes", client=client)


def test_what_would_be_kept_in_a_snapshot_is_done_in_each_container(platform: Platform) -> None:
    assert "\n['loaded', 'connected']\n" in platform.modal("run", "snapshots.py").out
