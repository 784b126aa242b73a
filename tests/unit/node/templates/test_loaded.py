"""What a template says of itself is taken for no more than it is."""

from typing import Any

import pytest

from pilotlight.node.templates.template import Loaded


def test_what_is_well_formed_is_taken_over() -> None:
    said = {"ready": True, "read": ["HOME"], "failed": {"yaml": "keeps threads"}, "postponed": {"a": "b"}, "took_ms": 250.5}
    assert Loaded.said(said) == Loaded(frozenset({"HOME"}), {"yaml": "keeps threads"}, 250.5, {"a": "b"})


@pytest.mark.parametrize("took", ["x", [], {}, None, True, float("nan"), float("inf"), -1.0, 10**400])
def test_odd_times_count_as_none(took: Any) -> None:
    assert Loaded.said({"took_ms": took}).took_ms == 0.0


def test_odd_lists_count_as_empty() -> None:
    assert Loaded.said({"read": 7, "failed": ["x"]}) == Loaded()
