"""Moments as the protocol has them, and as everything else does: seconds since the epoch."""

from google.protobuf.timestamp_pb2 import Timestamp


def seconds(moment: Timestamp) -> float:
    """Since the epoch."""
    return moment.seconds + moment.nanos / 1e9


def timestamp(at: float) -> Timestamp:
    """Of seconds since the epoch."""
    return Timestamp(seconds=int(at), nanos=int(at % 1 * 1e9))
