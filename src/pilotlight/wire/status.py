"""Details of errors on the wire: what tells a client how long to wait before it tries again.

Invariant: they are encoded as the official clients decode them, whatever other packages are installed.
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.encoding.base import StatusDetailsCodecBase
from modal_proto import api_pb2


class StatusDetails(StatusDetailsCodecBase):
    """Error details as `google.rpc.Status`, whose twin `modal.client.RPCStatus` is."""

    def encode(self, status: Status, message: str | None, details: Sequence[Message] | None) -> bytes:
        whole = api_pb2.RPCStatus(code=status.value, message=message or "")
        for detail in details or ():
            whole.details.add().Pack(detail)
        return whole.SerializeToString()

    def decode(self, status: Status, message: str | None, data: bytes) -> list[Any]:
        return list(api_pb2.RPCStatus.FromString(data).details)
