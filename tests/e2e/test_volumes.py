"""Volumes in real containers; the checks are in `programs/volumes.py`. And the command line, and the death of the server."""

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_volumes(checks: Callable[..., None], client: str) -> None:
    checks("volumes", client=client)
