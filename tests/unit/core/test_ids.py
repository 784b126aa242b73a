from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core import ids


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_ids_have_upstreams_shape(parts: list[str]) -> None:
    for made in (ids.new(ids.APP), ids.derived(ids.APP, *parts)):
        assert len(made) == 3 + ids.BODY_LENGTH
        assert ids.has_prefix(made, ids.APP) and not ids.has_prefix(made, ids.TASK)
        assert set(made[3:]) <= set(ids.ALPHABET)


def test_the_same_parts_give_the_same_id_and_others_another() -> None:
    assert ids.derived(ids.INPUT, "fc-1", 2) == ids.derived(ids.INPUT, "fc-1", 2)
    others = [ids.derived(*parts) for parts in [("in", "fc-1", 2), ("in", "fc-1", 3), ("in", "fc-12", ""), ("in", "fc-2", 1)]]
    assert len(set(others)) == len(others)
    assert ids.derived("in", "a", "b") != ids.derived("in", "ab")
    assert ids.new(ids.TASK) != ids.new(ids.TASK)
