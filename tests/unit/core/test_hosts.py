"""Host names and what they mean."""

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.core.hosts import check_custom_domain, host_name, label_of


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Site.LocalHost", "site.localhost"),
        ("site.localhost:9980", "site.localhost"),
        ("site.localhost.:80", "site.localhost"),
        (" a.b ", "a.b"),
        ("[::1]:80", "[::1]"),
        ("", ""),
    ],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("main--app-f.example.com", "main--app-f"),
        ("example.com", None),
        (".example.com", None),
        ("notexample.com", None),
        ("a.b.example.com", "a.b"),
        ("127.0.0.1", None),
    ],
)
def test_what_comes_before_the_domain(name: str, label: str | None) -> None:
    assert label_of(name, "Example.com") == label


@pytest.mark.parametrize("name", ["shop.example.org", "Shop.Example.org", "xn--bcher-kva.example", "a-b.c1.com", "notexample.com"])
def test_a_function_may_be_served_at_a_domain_of_its_author(name: str) -> None:
    check_custom_domain(name, "example.com", "Function 'f'")


@pytest.mark.parametrize(
    "name",
    [
        *("127.0.0.1", "169.254.21.7", "[::1]", "::1", "2130706433", "0x7f000001", "127.1"),
        *("localhost", "web.localhost", "example.com", "Example.com", "main--other-f.example.com", "example.com."),
        *("", "shop", "shop.example.org:80", "shop.example.org/x", "*.example.org", "-a.example.org", "a..b", "a b.org", "é.org"),
        *("a" * 64 + ".org", ".".join(["a" * 60] * 5)),
    ],
)
def test_what_is_the_platforms_own_or_no_domain_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="Function 'f'"):
        check_custom_domain(name, "example.com", "Function 'f'")
