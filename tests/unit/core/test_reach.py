"""How a client is told to reach the edge, by how it reached the API."""

import pytest

from pilotlight.core.labels import addresses_of
from pilotlight.core.reach import Edge

LOCAL = addresses_of("localhost", 9980, has_tls=False)
PROXIED = addresses_of("web.example.com", 9980, has_tls=False)
OPEN = addresses_of("web.lan", 9980, has_tls=False, is_open=True)


@pytest.mark.parametrize(
    ("host", "addresses", "authority", "url"),
    [
        ("127.0.0.1", LOCAL, "127.0.0.1:9900", "http://127.0.0.1:9980"),
        ("127.0.0.1", LOCAL, "localhost:9900", "http://127.0.0.1:9980"),
        ("127.0.0.1", LOCAL, "", "http://127.0.0.1:9980"),
        ("0.0.0.0", LOCAL, "", "http://127.0.0.1:9980"),
        ("0.0.0.0", LOCAL, "127.0.0.1:9900", "http://127.0.0.1:9980"),
        ("0.0.0.0", LOCAL, "192.168.1.5:9900", "http://192.168.1.5:9980"),
        ("0.0.0.0", LOCAL, "server.lan:9900", "http://server.lan:9980"),
        ("0.0.0.0", OPEN, "192.168.1.5:9900", "http://192.168.1.5:9980"),
        ("0.0.0.0", OPEN, "api.lan:9900", "http://web.lan:9980"),
        ("192.168.1.5", LOCAL, "10.0.0.1:9900", "http://192.168.1.5:9980"),
        ("[::]", LOCAL, "[fd00::1]:9900", "http://[fd00::1]:9980"),
        ("[::]", LOCAL, "", "http://[::1]:9980"),
        ("127.0.0.1", PROXIED, "api.example.com", "https://web.example.com"),
        ("127.0.0.1", PROXIED, "127.0.0.1:9900", "http://127.0.0.1:9980"),
    ],
)
def test_the_edge_is_where_the_api_was_found(host: str, addresses: object, authority: str, url: str) -> None:
    assert Edge(host, 9980, False, addresses).url_for(authority) == url  # type: ignore[arg-type]


def test_with_certificates_all_is_https() -> None:
    addresses = addresses_of("web.example.com", 9980, has_tls=True)
    edge = Edge("0.0.0.0", 9980, True, addresses)
    assert edge.url_for("192.168.1.5:9900") == "https://192.168.1.5:9980"
    assert edge.url_for("api.example.com:9900") == "https://web.example.com:9980"
    assert addresses.url("label") == "https://label.web.example.com:9980"


def test_a_domain_without_a_proxy_is_plain_http_at_our_port() -> None:
    assert OPEN.url("label") == "http://label.web.lan:9980"
