"""What published images may be called."""

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.core.image_names import split


@pytest.mark.parametrize(
    ("name", "environment", "tag"),
    [
        ("tools", "", "tools:latest"),
        ("tools:v1", "", "tools:v1"),
        ("prod/tools", "prod", "tools:latest"),
        ("prod/tools:v1.2_3-4", "prod", "tools:v1.2_3-4"),
        ("main/prod/tools:v1", "prod", "tools:v1"),
        ("main/tools", "main", "tools:latest"),
    ],
)
def test_names(name: str, environment: str, tag: str) -> None:
    assert split(name, "main") == (environment, tag)


@pytest.mark.parametrize("name", ["", "a:b:c", "a b", "im-tools", "other/prod/tools", "main/x/y/z", "x" * 65, "tools:" + "x" * 65])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidInput):
        split(name, "main")
