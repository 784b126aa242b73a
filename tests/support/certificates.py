"""Certificates of an authority of our own, and how the stock client is made to trust it: by the bundle of its certifi."""

import datetime
import ipaddress
import shutil
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Issues certificates; `root` is its own, as PEM."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA of our own")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = self._builder(self._name, self._key).add_extension(constraints, critical=True).add_extension(usage, critical=True)
        self.root = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, chain: Path, key: Path, *hosts: str) -> int:
        """Write a certificate for these names and addresses, and its key; its serial number."""
        private = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
        certificate = self._builder(subject, private).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key.write_bytes(private.private_bytes(serialization.Encoding.PEM, pem, plain))
        return certificate.serial_number

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def trusting(directory: Path, root: bytes) -> dict[str, str]:
    """Variables for a Python program whose certifi holds one more authority, as after `cat root.pem >> $(python -m certifi)`."""
    copy = directory / "certifi"
    shutil.copytree(Path(certifi.__file__).parent, copy)
    with (copy / "cacert.pem").open("ab") as bundle:
        bundle.write(b"\n" + root)
    return {"PYTHONPATH": str(directory)}
