import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.core.names import check_environment_name, check_object_name


@pytest.mark.parametrize("name", ["a", "my-dict_1.2", "x" * 64])
def test_names_that_may_be(name: str) -> None:
    assert check_object_name(name, "dict") == name


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 65, "a/b", "ap-" + "0" * 22])
def test_names_that_may_not(name: str) -> None:
    with pytest.raises(InvalidInput, match="can't be the name of a dict"):
        check_object_name(name, "dict")


@pytest.mark.parametrize("name", ["-a", ".a", "a.b", "", "en-dev"])
def test_environments_that_may_not(name: str) -> None:
    with pytest.raises(InvalidInput, match="environment"):
        check_environment_name(name)
