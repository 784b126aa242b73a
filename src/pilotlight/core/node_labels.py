"""What an operator says of a node: `region=us-east,cloud=aws`. Functions that ask for one of these are placed by it."""

import re

from pilotlight.core.errors import InvalidInput

MOST_LABELS = 32
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_VALUE = re.compile(r"[A-Za-z0-9_.-]{1,63}")


def parse_labels(text: str) -> dict[str, str]:
    """Names and values, these in lower case. Raises InvalidInput."""
    labels: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = entry.partition("=")
        if not equals or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise InvalidInput(
                f"{entry!r} is no label of a node. Write NAME=VALUE, such as region=us-east: the name in lower case, both of "
                "letters, digits, '.', '_' and '-', at most 63 of them."
            )
        if name in labels:
            raise InvalidInput(f"The label {name!r} is given twice. A node has one value of each.")
        labels[name] = value.lower()
    if len(labels) > MOST_LABELS:
        raise InvalidInput(f"A node has at most {MOST_LABELS} labels, these are {len(labels)}.")
    return labels
