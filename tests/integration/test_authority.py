"""The platform's own certificate authority: made once, renewed in time, trusted for its own domain only."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from pilotlight.core.errors import WrongState
from pilotlight.wire import authority
from pilotlight.wire.authority import own_certificate

DOMAIN = "tunnel.localhost"


def shake_hands(directory: Path, name: str, trusted: Path) -> str:
    """A handshake of a client that trusts an authority, with a listener of the certificate; returns the protocol agreed on."""
    certificate = own_certificate(directory, DOMAIN)
    context = certificate.by_name(lambda _, asked: ("h2",) if asked == name else None)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with ours:
            try:
                context.wrap_socket(ours, server_side=True).close()
            except (ssl.SSLError, OSError):
                return

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        client = ssl.create_default_context(cafile=str(trusted))
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        client.set_alpn_protocols(["h2"])
        with client.wrap_socket(theirs, server_hostname=name) as connection:
            return connection.selected_alpn_protocol() or ""
    finally:
        theirs.close()
        serving.join()


def test_it_is_made_once_and_believed(tmp_path: Path) -> None:
    assert shake_hands(tmp_path, f"abc.{DOMAIN}", tmp_path / "ca.pem") == "h2"
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    own_certificate(tmp_path, DOMAIN)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"ca.pem", "ca.key", "tunnels.pem", "tunnels.key"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_another_authority_is_not_believed(tmp_path: Path) -> None:
    for name in ("ours", "other"):
        own_certificate(tmp_path / name, DOMAIN)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path / "ours", f"abc.{DOMAIN}", tmp_path / "other" / "ca.pem")


def test_whoever_trusts_it_trusts_it_for_its_domain_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_certificate(tmp_path, DOMAIN)
    ca, key = authority._authority(tmp_path, DOMAIN)
    authority._issue(tmp_path, "example.com", ca, key)  # what somebody with the key could do
    monkeypatch.setattr(authority, "_is_fresh", lambda *_: True)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shake_hands(tmp_path, "abc.example.com", tmp_path / "ca.pem")


def test_a_certificate_is_renewed_in_time_and_the_authority_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "CERTIFICATE_DAYS", authority.RENEW_DAYS - 1)
    own_certificate(tmp_path, DOMAIN)
    before, trusted = (tmp_path / "tunnels.pem").read_bytes(), (tmp_path / "ca.pem").read_bytes()
    monkeypatch.undo()
    assert shake_hands(tmp_path, f"abc.{DOMAIN}", tmp_path / "ca.pem") == "h2"
    after = x509.load_pem_x509_certificate((tmp_path / "tunnels.pem").read_bytes())
    assert after.serial_number != x509.load_pem_x509_certificate(before).serial_number
    assert (tmp_path / "ca.pem").read_bytes() == trusted


def test_another_domain_makes_another_authority(tmp_path: Path) -> None:
    own_certificate(tmp_path, "example.com")
    before = (tmp_path / "ca.pem").read_bytes()
    assert shake_hands(tmp_path, f"abc.{DOMAIN}", tmp_path / "ca.pem") == "h2"
    assert (tmp_path / "ca.pem").read_bytes() != before


def test_a_broken_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    own_certificate(tmp_path, DOMAIN)
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(WrongState, match=r"Remove ca\.\* and tunnels\.\* in"):
        own_certificate(tmp_path, DOMAIN)
