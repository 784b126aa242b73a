"""What a bucket mount must be, and with which credentials its store is asked."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pilotlight.core import errors

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
# Names in a secret: those of AWS, and those that Google's HMAC keys go by.
_KEY_ID = ("AWS_ACCESS_KEY_ID", "GOOGLE_ACCESS_KEY_ID")
_KEY = ("AWS_SECRET_ACCESS_KEY", "GOOGLE_ACCESS_KEY_SECRET")
_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of a store; all empty: it is asked as anybody may."""

    key_id: str = ""
    key: str = ""
    session_token: str = ""
    region: str = ""


def check_bucket(owner: str, mount_path: str, bucket: str, endpoint: str, prefix: str) -> None:
    """Raises InvalidInput that names the mount. `owner` begins the message: "Function 'f'"."""
    where = f"{owner}: the bucket mount at {mount_path!r}"
    if not _BUCKET.fullmatch(bucket):
        raise errors.InvalidInput(
            f"{where} names the bucket {bucket!r}, which no bucket can be called. Use letters, digits, -, _ and dots."
        )
    if endpoint:
        try:
            parts = urlsplit(endpoint)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_url = False
        if not is_url or any(character.isspace() for character in endpoint):
            raise errors.InvalidInput(f"{where} has bucket_endpoint_url={endpoint!r}. Give an http:// or https:// URL.")
    if prefix and (prefix.startswith("/") or not prefix.endswith("/") or "\0" in prefix or ".." in prefix.split("/")):
        raise errors.InvalidInput(f"{where} has key_prefix={prefix!r}. It must end in '/', not begin with it, and hold no '..'.")


def has_no_subdomains(endpoint: str) -> bool:
    """Whether `<bucket>.<host>` can't be a name, since the host is an address: there the bucket is in the path."""
    try:
        ipaddress.ip_address(urlsplit(endpoint).hostname or "")
    except ValueError:
        return False
    return True


def credentials_of(owner: str, mount_path: str, secret: Mapping[str, str]) -> Credentials:
    """From the variables of a mount's secret; raises InvalidInput for one of id and key without the other."""
    key_id, key = _first(secret, _KEY_ID), _first(secret, _KEY)
    if bool(key_id) != bool(key):
        missing = _KEY[0] if key_id else _KEY_ID[0]
        raise errors.InvalidInput(
            f"{owner}: the secret of the bucket mount at {mount_path!r} has no {missing}. Give it {_KEY_ID[0]} and {_KEY[0]} "
            f"(for Google {_KEY_ID[1]} and {_KEY[1]})."
        )
    return Credentials(key_id, key, secret.get("AWS_SESSION_TOKEN", ""), _first(secret, _REGION))


def _first(secret: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := secret.get(name))), "")
