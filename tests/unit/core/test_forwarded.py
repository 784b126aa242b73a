"""Who asks, when a proxy stands between."""

import pytest

from pilotlight.core.forwarded import Address, client_and_scheme

HERE: Address = ("127.0.0.1", 4)
THERE: Address = ("198.51.100.7", 4)


@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        (HERE, {}, (HERE, "http")),
        (THERE, {b"x-forwarded-for": b"1.2.3.4", b"x-forwarded-proto": b"https"}, (THERE, "http")),
        (HERE, {b"x-forwarded-for": b"1.2.3.4", b"x-forwarded-proto": b"https"}, (("1.2.3.4", 0), "https")),
        (HERE, {b"x-forwarded-for": b"6.6.6.6, 1.2.3.4, ::1"}, (("1.2.3.4", 0), "http")),
        (HERE, {b"x-forwarded-for": b", ,127.0.0.1"}, (HERE, "http")),
        (HERE, {b"x-forwarded-proto": b"http, https"}, (HERE, "https")),
        (HERE, {b"x-forwarded-proto": b"gopher"}, (HERE, "http")),
        (None, {b"x-forwarded-for": b"1.2.3.4"}, (None, "http")),
    ],
)
def test_only_a_proxy_on_this_machine_is_believed(
    client: Address | None, headers: dict[bytes, bytes], expected: tuple[Address | None, str]
) -> None:
    assert client_and_scheme(headers, client, "http") == expected


def test_websockets_have_schemes_of_their_own() -> None:
    assert client_and_scheme({b"x-forwarded-proto": b"https"}, HERE, "ws") == (HERE, "wss")
