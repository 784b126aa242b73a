import pytest

from pilotlight.core.versions import is_older


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.0.5", True),
        ("0.73.1", True),
        ("1.1.0", False),
        ("1.1.dev3", False),
        ("1.10.2", False),
        ("2.0", False),
        ("", False),
        ("x.y", False),
    ],
)
def test_versions_are_compared_by_their_numbers_and_unreadable_ones_count_as_newest(version: str, expected: bool) -> None:
    assert is_older(version, (1, 1)) is expected
