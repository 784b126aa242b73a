from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core import ids
from pilotlight.core.garbage import Held, reachable, references, sort_out

KEYS = st.text("abcdef", min_size=1, max_size=2)


@given(
    st.lists(st.builds(Held, KEYS, st.integers(0, 100), st.floats(0, 100)), unique_by=lambda held: held.key),
    st.sets(KEYS),
    st.floats(0, 100),
)
def test_nothing_wanted_or_fresh_ever_goes_and_all_else_does(held: list[Held], wanted: set[str], used_before: float) -> None:
    verdict = sort_out(held, wanted, used_before)
    gone = {one.key for one in verdict.garbage}
    assert not gone & wanted
    assert gone == {one.key for one in held if one.used_at < used_before} - wanted
    assert verdict.kept == len(held) - len(gone)
    assert verdict.kept_bytes + verdict.garbage_bytes == sum(one.size_bytes for one in held)


def test_references_are_found_in_any_bytes() -> None:
    blob, image, sha = ids.new(ids.BLOB), ids.new(ids.IMAGE), "0123456789abcdef" * 4
    assert references(f'{{"a":"{blob}"}}'.encode()) == {blob}
    assert references(b"\x12\x19" + blob.encode() + b"2\x19" + image.encode() + b"\x12@" + sha.encode() + b"\x18\x01") == {
        blob,
        image,
        sha,
    }
    assert references(blob.encode()[:-1] + b"\x00bl-short " + b"0" * 63 + ids.new(ids.TASK).encode()) == set()


def test_what_is_referred_to_by_what_is_wanted_is_wanted() -> None:
    refers = {"a": ["b"], "b": ["c", "a"], "d": ["e"]}
    assert reachable(["a"], refers) == {"a", "b", "c"}
    assert reachable([], refers) == set()
