"""Results as JSON, where they are nothing but plain values: null, booleans, numbers, text, lists, and objects with text for keys.

A pickle is never opened here: that would run what is in it. CBOR is read without its tags, which stand for richer types, and by
which a few bytes can name the same list a million times.
"""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import cbor2

MAX_RESULT_BYTES = 256 * 1024  # of a result that is shown in full
MAX_DEPTH = 64  # of lists and objects within each other


class NotPlain(ValueError):
    """The value is more than JSON can say; the message names what it holds."""


class _NoTags(Mapping[int, Any]):
    """For each tag: a decoder that refuses it."""

    def __getitem__(self, tag: int) -> Any:
        return _refuse

    def get(self, tag: int, default: Any = None) -> Any:
        return _refuse

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1


def _refuse(*_: object) -> NoReturn:
    raise NotPlain("a tagged value")


def from_cbor(data: bytes) -> Any:
    """The plain value of one CBOR item; raises NotPlain for whatever JSON has no equal of, or what is not CBOR."""
    stream = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(
        stream, tag_hook=_refuse, semantic_decoders=_NoTags(), strict_hashable_types=True, max_depth=MAX_DEPTH
    )
    try:
        value = decoder.decode()
    except cbor2.CBORError as error:
        raise NotPlain(str(error)) from error
    if stream.read(1):
        raise NotPlain("more than one item")
    _check(value)
    return value


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for key, member in value.items():
            if type(key) is not str:
                raise NotPlain(f"a key of type {type(key).__name__}")
            _check(member)
    elif type(value) is list:
        for member in value:
            _check(member)
    elif type(value) is float:
        if value != value or value in (float("inf"), float("-inf")):
            raise NotPlain(f"the number {value}")
    elif value is not None and type(value) not in (bool, int, str):
        raise NotPlain(f"a value of type {type(value).__name__}")


def to_json(document: Any) -> bytes:
    """UTF-8 without spaces."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
