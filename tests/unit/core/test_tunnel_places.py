"""Where tunnels are said to be."""

import re

import pytest

from pilotlight.core.tunnels import domain_of, new_label, parse_ports, place_of


@pytest.mark.parametrize(("web", "tunnels"), [("localhost", "tunnel.localhost"), ("Example.com", "example.com")])
def test_a_wildcard_has_two_labels_behind_it(web: str, tunnels: str) -> None:
    assert domain_of(web) == tunnels


@pytest.mark.parametrize(
    ("domain", "listens", "raw_host"),
    [
        ("localhost", "127.0.0.1:9943", "127.0.0.1"),
        ("localhost", "0.0.0.0:9943", "127.0.0.1"),
        ("example.com", "0.0.0.0:9943", "example.com"),
        ("example.com", "[::]:9943", "example.com"),
        ("example.com", "10.0.0.5:9943", "10.0.0.5"),
        ("localhost", "[::1]:9943", "::1"),
    ],
)
def test_raw_tunnels_are_where_the_listener_is(domain: str, listens: str, raw_host: str) -> None:
    place = place_of(domain, listens, "20000-20001")
    assert (place.raw_host, place.port, list(place.raw_ports)) == (raw_host, 9943, [20_000, 20_001])


def test_labels_are_host_names_that_nobody_guesses() -> None:
    labels = {new_label() for _ in range(1000)}
    assert len(labels) == 1000
    assert all(re.fullmatch(r"[a-z][a-z0-9]{15}", label) for label in labels)


@pytest.mark.parametrize("text", ["", "20000", "20001-20000", "0-5", "65000-65536", "a-b", "1-65535", "-5"])
def test_what_is_no_range_of_ports(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_ports(text)
