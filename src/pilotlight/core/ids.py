"""Identifiers of all objects: upstream's prefix, a hyphen, 22 alphanumeric characters.

An id made from an idempotency key is the same for each repetition of a request, so a repeated "create" finds its own row
instead of making a second one, even across a restart of the server.
"""

import hashlib
import secrets
from typing import NewType

AppId = NewType("AppId", str)
FunctionId = NewType("FunctionId", str)
ClassId = NewType("ClassId", str)
CallId = NewType("CallId", str)
InputId = NewType("InputId", str)
TaskId = NewType("TaskId", str)
ImageId = NewType("ImageId", str)
MountId = NewType("MountId", str)
SecretId = NewType("SecretId", str)
DictId = NewType("DictId", str)
QueueId = NewType("QueueId", str)
VolumeId = NewType("VolumeId", str)
BlobId = NewType("BlobId", str)
EnvironmentId = NewType("EnvironmentId", str)
NodeId = NewType("NodeId", str)

APP, FUNCTION, CLASS, CALL, INPUT, TASK = "ap", "fu", "cs", "fc", "in", "ta"
IMAGE, MOUNT, SECRET, DICT, QUEUE, VOLUME, BLOB = "im", "mo", "st", "di", "qu", "vo", "bl"
NETWORK_FILE_SYSTEM = "sv"
ENVIRONMENT, NODE, WORKSPACE, TOKEN, TOKEN_SECRET = "en", "no", "ac", "ak", "as"
PROXY_TOKEN, PROXY_TOKEN_SECRET = "wk", "ws"
WEBHOOK, WEBHOOK_DELIVERY = "wh", "wd"
IMAGE_REVISION = "ir"

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_LENGTH = 22  # 131 bits
_SPACE = len(ALPHABET) ** BODY_LENGTH
# A random byte as a digit; those beyond the last whole round of digits would make the first ones more likely, and are left out.
_DIGITS = bytes(ord(ALPHABET[byte % len(ALPHABET)]) for byte in range(256))
_SURPLUS = bytes(range(256 - 256 % len(ALPHABET), 256))
_RANDOM_BYTES = 32
_PAIRS = [low + high for high in ALPHABET for low in ALPHABET]  # two digits at a time halve the work


def _encode(number: int) -> str:
    digits: list[str] = []
    for _ in range(BODY_LENGTH // 2):
        number, pair = divmod(number, len(_PAIRS))
        digits.append(_PAIRS[pair])
    return "".join(digits)


def new(prefix: str) -> str:
    """A fresh random id."""
    while len(body := secrets.token_bytes(_RANDOM_BYTES).translate(_DIGITS, _SURPLUS)) < BODY_LENGTH:
        pass  # too many bytes were surplus: hardly ever
    return f"{prefix}-{body[:BODY_LENGTH].decode()}"


def derived(prefix: str, *parts: str | int) -> str:
    """The id that these parts (an idempotency key, a content hash …) always give."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return f"{prefix}-{_encode(int.from_bytes(digest, 'big') % _SPACE)}"


def has_prefix(candidate: str, prefix: str) -> bool:
    """Whether the string is shaped like an id of this kind."""
    return candidate.startswith(prefix + "-") and candidate[len(prefix) + 1 :].isalnum()
