from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.errors import InvalidInput, NotAllowed
from pilotlight.core.signing import sign, verify

KEY = b"k" * 32


def pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def test_claims_come_back_until_expiry() -> None:
    query = pairs(sign(KEY, "PUT", "/blobs/bl-1", 1000, length=5, md5="ab"))
    assert verify(KEY, "PUT", "/blobs/bl-1", query, 999.9) == {"length": "5", "md5": "ab"}
    with pytest.raises(NotAllowed, match="expired"):
        verify(KEY, "PUT", "/blobs/bl-1", query, 1000)


def test_a_permission_to_get_is_one_to_ask_for_the_head_but_not_the_other_way_round() -> None:
    verify(KEY, "HEAD", "/x", pairs(sign(KEY, "GET", "/x", 10)), 1)
    with pytest.raises(NotAllowed):
        verify(KEY, "PUT", "/x", pairs(sign(KEY, "GET", "/x", 10)), 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "DELETE"},
        {"path": "/blobs/bl-2"},
        {"key": b"o" * 32},
        {"query": [("length", "6")]},
        {"query": [("expires", "2000")]},
        {"query": [("length", "5")]},
        {"query": [("other", "1")]},
        {"query": [("signature", "é")]},
    ],
)
def test_nothing_can_be_changed(changed: dict) -> None:
    signed = pairs(sign(KEY, "PUT", "/blobs/bl-1", 1000, length=5))
    query = changed.pop("query", [])
    # The name that a case gives replaces the signed one; "length=5" is given a second time instead.
    kept = [pair for pair in signed if pair[0] not in dict(query) or pair in query]
    request = {"key": KEY, "method": "PUT", "path": "/blobs/bl-1", "query": kept + query, "now": 1, **changed}
    with pytest.raises(NotAllowed):
        verify(**request)


def test_a_claim_cannot_be_dropped() -> None:
    signed = [pair for pair in pairs(sign(KEY, "PUT", "/x", 1000, length=5)) if pair[0] != "length"]
    with pytest.raises(NotAllowed):
        verify(KEY, "PUT", "/x", signed, 1)


def test_nothing_signed_at_all() -> None:
    with pytest.raises(NotAllowed):
        verify(KEY, "GET", "/x", [], 1)


def test_the_signature_s_own_names_are_taken() -> None:
    with pytest.raises(InvalidInput):
        sign(KEY, "GET", "/x", 10, signature="x")


@given(
    st.dictionaries(st.from_regex(r"[a-d]{1,3}", fullmatch=True), st.text(st.characters(codec="utf-8")), max_size=4),
    st.text(st.characters(codec="utf-8")),
)
def test_any_text_survives(claims: dict[str, str], path: str) -> None:
    assert verify(KEY, "GET", path, pairs(sign(KEY, "GET", path, 10, **claims)), 1) == claims
