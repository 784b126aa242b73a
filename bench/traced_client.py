"""Child: the stock `modal` command line, with a note of when each of its RPCs began and ended.

    python -m bench.traced_client TRACE_FILE COMMAND…

The client is as it is; only its gRPC library's streams are watched. Times are of time.perf_counter(), in seconds.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from grpclib.client import Stream

Span = tuple[str, float, float]


def watch(spans: list[Span]) -> None:
    """Note the span of each RPC from now on."""
    opened: dict[int, tuple[str, float]] = {}
    enter, leave = Stream.__aenter__, Stream.__aexit__

    async def noted_enter(stream: Any) -> Any:
        opened[id(stream)] = (stream._method_name.rpartition("/")[2], time.perf_counter())
        return await enter(stream)

    async def noted_leave(stream: Any, *error: Any) -> None:
        try:
            return await leave(stream, *error)
        finally:
            spans.append((*opened.pop(id(stream)), time.perf_counter()))

    Stream.__aenter__, Stream.__aexit__ = noted_enter, noted_leave  # type: ignore[method-assign]


def main() -> None:
    """Run the command line, then write the trace."""
    trace, *arguments = sys.argv[1:]
    spans: list[Span] = []
    watch(spans)
    from modal.__main__ import main as modal

    sys.argv = ["modal", *arguments]
    try:
        modal()
    finally:
        Path(trace).write_text(json.dumps(spans))


if __name__ == "__main__":
    main()
