"""Failures, limits and concurrency through the stock client, in real containers; `programs/behaviour.py` holds the checks.

Retries by client and by server, their counts and delays · time-outs that kill what resists, startup time-outs · cancellation of
sync, async and concurrent code, and together with the container · a container's death gives its inputs back, the third one fails
them with exit code and last output · a module that can't be imported, a container that can't start · @concurrent, @batched,
max_containers, single-use containers.
"""

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_behaviour(checks: Callable[..., None], client: str) -> None:
    checks("behaviour", client=client, deadline_s=400)


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_a_module_that_cannot_be_imported(checks: Callable[..., None], client: str) -> None:
    checks("broken_import", client=client)
