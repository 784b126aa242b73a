"""Addresses of listeners."""

import pytest

from pilotlight.core.errors import InvalidInput, NotAllowed
from pilotlight.supervisor.addresses import Address, parse, require_private


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9900", Address("127.0.0.1", 9900)),
        ("localhost:0", Address("127.0.0.1", 0)),
        ("[::1]:9900", Address("::1", 9900)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
    ],
)
def test_addresses_are_read(text: str, address: Address) -> None:
    assert parse(text, "--api") == address


@pytest.mark.parametrize("text", ["", "9900", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "example.test:1"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"such as --api 127\.0\.0\.1:9900"):
        parse(text, "--api")


def test_an_address_is_written_as_it_is_read() -> None:
    assert str(parse("[::1]:9900", "--api")) == "[::1]:9900"
    assert str(parse("127.0.0.1:9900", "--api")) == "127.0.0.1:9900"


def test_plain_http_stays_on_loopback_unless_the_operator_says_otherwise() -> None:
    require_private(Address("127.0.0.1", 1), "--api", insecure=False)
    require_private(Address("::1", 1), "--api", insecure=False)
    require_private(Address("0.0.0.0", 1), "--api", insecure=True)
    with pytest.raises(NotAllowed, match="--insecure"):
        require_private(Address("0.0.0.0", 1), "--api", insecure=False)
