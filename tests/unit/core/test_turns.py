"""Who gets the next container."""

from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.turns import Claim, Turns

claims = st.lists(st.builds(Claim, have=st.integers(0, 5), wanted=st.integers(0, 8)), max_size=8)


def test_first_containers_come_before_all_others_in_the_order_of_waiting() -> None:
    assert list(Turns([Claim(3, 2), Claim(0, 3), Claim(0, 1)])) == [1, 2, 1, 1, 0, 0]


def test_who_can_not_be_served_leaves_its_turn_to_the_others() -> None:
    turns = Turns([Claim(0, 1_000_000), Claim(0, 2)])
    served: list[int] = []
    for number in turns:
        if number == 0:
            turns.leave(0)
        else:
            served.append(number)
    assert served == [1, 1]


@given(claims)
def test_everybody_gets_what_was_claimed_and_never_ahead_of_who_has_fewer(those: list[Claim]) -> None:
    have = [claim.have for claim in those]
    left = [claim.wanted for claim in those]
    for number in Turns(those):
        assert have[number] == min(have[other] for other in range(len(those)) if left[other])
        have[number] += 1
        left[number] -= 1
    assert not any(left)
