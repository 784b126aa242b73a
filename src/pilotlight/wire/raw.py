"""Messages that are passed on as the bytes they are.

Invariant: what goes through unread comes out unchanged: fields that this version does not know, and the details of an error.
"""

from typing import Any

from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase

CONTINUED = 0x80  # in a varint: another byte follows


class RawCodec(CodecBase):
    """Messages whose type is `bytes` stay as they are; all others are protobuf."""

    __content_subtype__ = "proto"  # pyright: ignore[reportAssignmentType]

    def encode(self, message: Any, message_type: Any) -> bytes:
        return message if message_type is bytes else message.SerializeToString()

    def decode(self, data: bytes, message_type: Any) -> bytes | Message:
        return data if message_type is bytes else message_type.FromString(data)


class RawStatusDetails(StatusDetailsCodecBase):
    """The details of an error as their serialized `google.rpc.Status`."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        return details

    def decode(self, status: Status, message: str | None, data: bytes) -> bytes:
        return data


def length_delimited(field_number: int, value: bytes) -> bytes:
    """One field of a serialized message: a string, bytes or an embedded message."""
    return field_header(field_number, len(value)) + value


def field_header(field_number: int, size: int) -> bytes:
    """What stands before the `size` bytes of such a field."""
    return _varint(field_number << 3 | 2) + _varint(size)


def leading_string(data: bytes, field_number: int) -> str | None:
    """The string that a serialized message begins with, if that is this field, is text, and has a size of one byte; else None."""
    if len(data) < 2 or data[0] != field_number << 3 | 2 or data[1] >= CONTINUED or len(data) < 2 + data[1]:
        return None
    try:
        return data[2 : 2 + data[1]].decode()
    except UnicodeDecodeError:
        return None  # whoever reads it as a message will say what is wrong


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= CONTINUED:
        out.append(number & 0x7F | CONTINUED)
        number >>= 7
    out.append(number)
    return bytes(out)
