"""What a certificate says of the hosts that it is for."""

import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.x509.extensions import ExtensionNotFound

from pilotlight.core.errors import InvalidInput


def certified_host(chain: Path, address: str) -> str:
    """The host for URLs: the address if the certificate has it, else its first name without a wildcard, else its first address.

    Raises InvalidInput where it has none of these.
    """
    try:
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, ExtensionNotFound) as error:
        raise InvalidInput(f"the certificate {chain} can't be read, or names no host in its SAN: {error}") from error
    addresses = names.get_values_for_type(x509.IPAddress)
    if ipaddress.ip_address(address) in addresses:
        return _for_url(address)
    for name in names.get_values_for_type(x509.DNSName):
        if not name.startswith("*"):
            return name
    if not addresses:
        raise InvalidInput(f"the certificate {chain} is for wildcards only; clients need one with a name for the API")
    return _for_url(str(addresses[0]))


def _for_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
