import pytest

from pilotlight.control.sealing import Seal
from pilotlight.core.errors import WrongState

KEY = bytes(range(32))


def test_what_was_sealed_opens_again() -> None:
    seal = Seal([KEY])
    sealed = seal.seal("st-1", b"hunter2")
    assert b"hunter2" not in sealed
    assert seal.open("st-1", sealed) == b"hunter2"
    assert seal.seal("st-1", b"hunter2") != sealed


@pytest.mark.parametrize("damage", ["other key", "other owner", "changed", "cut", "empty"])
def test_what_was_tampered_with_does_not(damage: str) -> None:
    sealed = Seal([KEY]).seal("st-1", b"hunter2")
    seal = Seal([KEY[::-1]]) if damage == "other key" else Seal([KEY])
    owner = "st-2" if damage == "other owner" else "st-1"
    given = {"changed": sealed[:-1] + bytes([sealed[-1] ^ 1]), "cut": sealed[:-1], "empty": b""}.get(damage, sealed)
    with pytest.raises(WrongState, match=r"secrets\.key"):
        seal.open(owner, given)


def test_older_keys_open_and_the_newest_seals() -> None:
    old, new = Seal([KEY]), Seal([KEY[::-1], KEY])
    sealed = old.seal("st-1", b"hunter2")
    assert new.open("st-1", sealed) == b"hunter2"
    assert sealed.startswith(old.mark)
    again = new.seal("st-1", b"hunter2")
    assert again.startswith(new.mark) and new.mark == Seal([KEY[::-1]]).mark != old.mark
    with pytest.raises(WrongState):
        old.open("st-1", again)
