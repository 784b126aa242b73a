"""Results are shown as JSON only where they are plain, whatever the bytes claim to be."""

import json
from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.plain_results import MAX_DEPTH, NotPlain, from_cbor, to_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_arrive_as_they_were(value: Any) -> None:
    found = from_cbor(cbor2.dumps(value))
    assert found == value
    assert json.loads(to_json(found)) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_json_or_are_refused(data: bytes) -> None:
    try:
        value = from_cbor(data)
    except NotPlain:
        return
    assert json.loads(to_json(value)) == value


@pytest.mark.parametrize(
    "value",
    [b"bytes", float("nan"), float("inf"), {1: "a"}, {b"a": 1}, [1, b""], datetime(2026, 1, 1, tzinfo=UTC), 2**70, {1, 2}, 1j],
    ids=repr,
)
def test_what_json_has_no_equal_of_is_refused(value: Any) -> None:
    with pytest.raises(NotPlain):
        from_cbor(cbor2.dumps(value))


@pytest.mark.parametrize(
    "data", [b"", b"\x82\x01", b"\xf7", b"\xf8\xff", b"\x62\xc3\x28", b"\x01\x02"], ids=lambda data: data.hex() or "empty"
)
def test_broken_or_strange_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(NotPlain):
        from_cbor(data)


def test_lists_that_name_each_other_are_refused() -> None:
    twice: list[Any] = ["x" * 100]
    for _ in range(40):  # 2^40 texts, said in a hundred bytes
        twice = [twice, twice]
    data = cbor2.dumps(twice, value_sharing=True)
    assert len(data) < 1_000
    with pytest.raises(NotPlain):
        from_cbor(data)


def test_depth_has_a_limit() -> None:
    assert from_cbor(b"\x81" * (MAX_DEPTH - 1) + b"\x01")
    with pytest.raises(NotPlain):
        from_cbor(b"\x81" * (MAX_DEPTH + 1) + b"\x01")


def test_a_pickle_is_not_opened() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("a pickle was opened",))

    import pickle

    with pytest.raises(NotPlain):
        from_cbor(pickle.dumps(Trap()))
