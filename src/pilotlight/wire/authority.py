"""A certificate authority of the platform's own, for tunnels where the operator gives no certificate.

It is made at first start, and whoever trusts it trusts it for the domain of tunnels only: its own certificate says so. Files, all
of mode 0600 in the directory of keys: `ca.pem`, `ca.key`, and what it has issued, `tunnels.pem` and `tunnels.key`.
"""

import datetime
import os
import secrets
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pilotlight.core.errors import WrongState
from pilotlight.wire.tls import Certificate

log = structlog.get_logger()

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 820  # the most that every client takes of an authority that was added by hand
RENEW_DAYS = 400  # before its end: looked at when the edge starts

DAY = datetime.timedelta(days=1)
_USAGE = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
_USAGE_OF_SIGNERS = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


def own_certificate(directory: Path, domain: str) -> Certificate:
    """The certificate for all names below a domain, issued by our own authority; both are made where they are missing or old.

    Raises WrongState where a file is there that can't be read.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        authority, authority_key = _authority(directory, domain)
        if not _is_fresh(directory, authority):
            _issue(directory, domain, authority, authority_key)
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise WrongState(
            f"A file of the platform's own certificate authority can't be read ({error}). Remove ca.* and tunnels.* in {directory} "
            "and start again: they are made anew, and clients have to trust the new ca.pem."
        ) from error
    return Certificate(directory / "tunnels.pem", directory / "tunnels.key")


def _authority(directory: Path, domain: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    chain, key_file = directory / "ca.pem", directory / "ca.key"
    if chain.exists() and key_file.exists():
        present = x509.load_pem_x509_certificate(chain.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        permitted = present.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
        if permitted == [x509.DNSName(domain)] and isinstance(key, ec.EllipticCurvePrivateKey):
            return present, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Pilotlight tunnels of {domain} ({secrets.token_hex(4)})")])
    constraints = x509.NameConstraints(permitted_subtrees=[x509.DNSName(domain)], excluded_subtrees=None)
    builder = (
        _builder(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(constraints, critical=True)
    )
    made = builder.sign(key, hashes.SHA256())
    _write(key_file, _private(key))
    _write(chain, made.public_bytes(serialization.Encoding.PEM))
    log.info("authority_made", domain=domain, path=str(chain))
    return made, key


def _is_fresh(directory: Path, authority: x509.Certificate) -> bool:
    chain = directory / "tunnels.pem"
    if not chain.exists() or not (directory / "tunnels.key").exists():
        return False
    present = x509.load_pem_x509_certificate(chain.read_bytes())
    left = present.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return present.issuer == authority.subject and left > RENEW_DAYS * DAY


def _issue(directory: Path, domain: str, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"*.{domain}"[:64])])
    of_authority = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(subject, authority.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"*.{domain}")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(of_authority), critical=False)
    )
    certificate = builder.sign(authority_key, hashes.SHA256())
    (directory / "tunnels.pem").unlink(missing_ok=True)  # never the old one beside the new key
    _write(directory / "tunnels.key", _private(key))
    _write(directory / "tunnels.pem", certificate.public_bytes(serialization.Encoding.PEM))
    log.info("certificate_issued", domain=domain, days=CERTIFICATE_DAYS)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)  # clocks differ
        .not_valid_after(now + days * DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*granted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in granted for name in (*_USAGE, *_USAGE_OF_SIGNERS)})


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, readable by the owner alone."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
