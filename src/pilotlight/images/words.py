"""Words of a Dockerfile: quoting, variables, the JSON form.

Invariant: a word means what it means to Docker: single quotes keep everything, double quotes let variables in, a backslash keeps
the next character, and an unknown variable is empty.
"""

import json
import re
from collections.abc import Mapping

from pilotlight.core.errors import InvalidInput

MAX_DEPTH = 64  # of variables in one another
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\d+")
_MODIFIED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*|\d+)(?::?([-+?]))?")


def split(text: str) -> list[str]:
    """Words separated by blanks outside quotes, quotes kept."""
    words: list[str] = []
    word, quote, escaped = "", "", False
    for char in text:
        if escaped:
            word, escaped = word + char, False
        elif char == "\\" and quote != "'":
            word, escaped = word + char, True
        elif quote:
            word += char
            quote = "" if char == quote else quote
        elif char in " \t\n":
            if word:
                words.append(word)
            word = ""
        else:
            quote = char if char in "'\"" else ""
            word += char
    if quote:
        raise InvalidInput(f"A {quote} is never closed in: {text}")
    return [*words, word] if word else words


def expand(word: str, variables: Mapping[str, str], depth: int = 0) -> str:
    """The word with quotes removed and variables replaced; errors: InvalidInput for a form that Docker does not have.

    `depth`: how many variables the word stands in.
    """
    if depth > MAX_DEPTH:
        raise InvalidInput(f"A Dockerfile's variables stand in one another more than {MAX_DEPTH} deep. Give one of them a name.")
    out, quote, at = "", "", 0
    while at < len(word):
        char = word[at]
        if quote == "'":
            quote, out = ("", out) if char == "'" else (quote, out + char)
        elif char == "\\" and at + 1 < len(word):
            at += 1
            # Inside double quotes a backslash is special only before what could be special there.
            out += word[at] if not quote or word[at] in '"$\\' else "\\" + word[at]
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == "$":
            value, at = _variable(word, at + 1, variables, depth)
            out += value
            continue
        else:
            out += char
        at += 1
    return out


def _variable(word: str, at: int, variables: Mapping[str, str], depth: int) -> tuple[str, int]:
    """The value of the variable whose name starts here, and where the text goes on."""
    if word[at : at + 1] != "{":
        match = _NAME.match(word, at)
        return (variables.get(match[0], ""), match.end()) if match else ("$", at)
    end = _closing(word, at)
    inner = word[at + 1 : end]
    match = _MODIFIED.match(inner)
    if match is None or (match[2] is None and match.end() != len(inner)):
        raise InvalidInput(
            f"${{{inner}}} is not a variable's form in a Dockerfile; use ${{NAME}}, ${{NAME:-word}} or ${{NAME:+word}}."
        )
    name, operator, value = match[1], match[2], variables.get(match[1], "")
    present = bool(value) if ":" in match[0] else match[1] in variables
    fallback = expand(inner[match.end() :], variables, depth + 1) if operator else ""
    if operator == "?" and not present:
        raise InvalidInput(f"Variable {name} is not set: {fallback or 'the Dockerfile requires it'}.")
    if operator == "+":
        return (fallback if present else ""), end + 1
    return (value if present or operator != "-" else fallback), end + 1


def _closing(word: str, at: int) -> int:
    depth = 0
    for position in range(at, len(word)):
        depth += {"{": 1, "}": -1}.get(word[position], 0)
        if not depth:
            return position
    raise InvalidInput(f"A ${{ is never closed in: {word}")


def json_list(text: str) -> list[str] | None:
    """The strings of a JSON list, or None where the text is not one (and so is meant for a shell)."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):  # lists in lists without end are no words either
        return None
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None
