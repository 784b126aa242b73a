"""Host names and what they mean."""

import pytest

from pilotlight.core.hosts import host_name, label_of


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
