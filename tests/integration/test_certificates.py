"""The certificate of the listeners: taken anew from disk by the next handshake, and kept where what is on disk is not whole."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from support.certificates import Authority

from pilotlight.cli.certificates import certified_host
from pilotlight.core.errors import InvalidInput
from pilotlight.wire.tls import Certificate


def serial(server: ssl.SSLContext, root: bytes) -> int:
    """That of the certificate which a handshake shows, done in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cadata=root.decode())
    ends = [
        trusting.wrap_bio(to_client, to_server, server_hostname="a.example"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    undone = list(ends)
    while undone:
        for end in list(undone):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            undone.remove(end)
    return x509.load_der_x509_certificate(ends[0].getpeercert(binary_form=True) or b"").serial_number


def test_a_renewed_certificate_is_shown_by_the_next_handshake_once_it_is_whole(tmp_path: Path) -> None:
    authority = Authority()
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    first = authority.issue(chain, key, "a.example")
    context = Certificate(chain, key).context("h2")
    assert serial(context, authority.root) == first
    fresh_key = tmp_path / "fresh.pem"
    second = authority.issue(chain, fresh_key, "a.example")
    assert serial(context, authority.root) == first, "a chain without its key is not used"
    key.unlink()
    assert serial(context, authority.root) == first
    fresh_key.rename(key)
    assert serial(context, authority.root) == second


def test_a_key_with_a_password_is_refused(tmp_path: Path) -> None:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    Authority().issue(chain, key, "a.example")
    from cryptography.hazmat.primitives import serialization as to

    private = to.load_pem_private_key(key.read_bytes(), None)
    locked = to.BestAvailableEncryption(b"secret")
    key.write_bytes(private.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, locked))
    with pytest.raises(InvalidInput, match="has a password"):
        Certificate(chain, key)


@pytest.mark.parametrize(
    ("hosts", "address", "expected"),
    [
        (("*.a.example", "api.a.example", "10.0.0.1"), "127.0.0.1", "api.a.example"),
        (("api.a.example", "10.0.0.1"), "10.0.0.1", "10.0.0.1"),
        (("*.a.example", "10.0.0.1"), "127.0.0.1", "10.0.0.1"),
        (("fd00::1",), "127.0.0.1", "[fd00::1]"),
    ],
)
def test_clients_are_given_a_host_that_the_certificate_is_for(
    tmp_path: Path, hosts: tuple[str, ...], address: str, expected: str
) -> None:
    Authority().issue(tmp_path / "chain.pem", tmp_path / "key.pem", *hosts)
    assert certified_host(tmp_path / "chain.pem", address) == expected


def test_a_certificate_for_wildcards_alone_is_no_use_to_clients(tmp_path: Path) -> None:
    Authority().issue(tmp_path / "chain.pem", tmp_path / "key.pem", "*.a.example")
    with pytest.raises(InvalidInput, match="wildcards only"):
        certified_host(tmp_path / "chain.pem", "127.0.0.1")
