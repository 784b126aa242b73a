"""Words mean what they mean to Docker."""

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.images import words

VARIABLES = {"NAME": "value", "EMPTY": "", "PATH": "/bin"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("$NAME", "value"),
        ("${NAME}s", "values"),
        ("a$NAME$MISSING", "avalue"),
        ("'$NAME'", "$NAME"),
        ('"$NAME x"', "value x"),
        (r"\$NAME", "$NAME"),
        (r'"a\b\"c"', 'a\\b"c'),
        ("${MISSING:-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${NAME:+x}", "x"),
        ("${MISSING:+x}", ""),
        ("${MISSING:-${NAME}}", "value"),
        ("/x:$PATH", "/x:/bin"),
        ("costs 5$", "costs 5$"),
        ("'it'\"'\"'s'", "it's"),  # as a shell quotes it
    ],
)
def test_expand(word: str, expected: str) -> None:
    assert words.expand(word, VARIABLES) == expected


def test_split_keeps_quotes_together() -> None:
    assert words.split("A='b c' D=\"e f\"  g\\ h") == ["A='b c'", 'D="e f"', "g\\ h"]


def test_what_is_never_closed_is_an_error() -> None:
    for text in ("A='b", 'A="b'):
        with pytest.raises(InvalidInput, match="never closed"):
            words.split(text)
    with pytest.raises(InvalidInput, match="never closed"):
        words.expand("${NAME", VARIABLES)


def test_a_required_variable() -> None:
    with pytest.raises(InvalidInput, match="MISSING is not set: give it"):
        words.expand("${MISSING:?give it}", VARIABLES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [('["a", "b c"]', ["a", "b c"]), ("[ -f x ] && y", None), ("echo [1]", None), ("[1, 2]", None), ("[]", [])],
)
def test_json_list(text: str, expected: list[str] | None) -> None:
    assert words.json_list(text) == expected
