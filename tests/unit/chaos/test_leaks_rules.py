"""What passes as the end of a call, and what is compared, where containers are counted."""

import modal
import pytest

from tests.chaos.leaks import COMPARED, first_and_last
from tests.chaos.starts import ends_well

DEATH = "3 containers died while they ran this input. The last one ended with exit code 3."
TIMEOUT = modal.exception.FunctionTimeoutError("The input hit its timeout of 1s.")


@pytest.mark.parametrize(
    ("kind", "found", "is_well"),
    [
        ("plain", 8, True),
        ("plain", 9, False),
        ("plain", ValueError("7"), False),
        ("fails", ValueError("7"), True),
        ("fails", 8, False),
        ("fails", ValueError("another"), False),
        ("dies", modal.exception.RemoteError(DEATH), True),
        ("dies", modal.exception.RemoteError("The image is not there."), False),
        ("dies", ConnectionError(DEATH), False),
        ("dies", 8, False),
        ("hangs", TIMEOUT, True),
        ("hangs", 8, False),
    ],
)
def test_a_call_ends_as_its_kind_must(kind: str, found: object, *, is_well: bool) -> None:
    assert ends_well(kind, 7, found) is is_well


def test_the_first_and_the_last_have_none_in_common() -> None:
    assert first_and_last([1.0, 1.0, 9.0, 5.0, 5.0]) == (2, (1.0, 5.0))
    assert first_and_last([1.0] * COMPARED + [9.0] + [5.0] * COMPARED) == (COMPARED, (1.0, 5.0))
