"""What is kept of requests that have ended: a line for the server's books, and the edge's own figures."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from pilotlight.edge.admission import Entry
from pilotlight.edge.metrics import EdgeMetrics
from pilotlight.wire.platform_pb2 import WebRequest

MAX_PATH_CHARS = 1024  # of a path, in the server's books


@dataclass(slots=True)
class Record:
    """One request on its way. `status` as the client saw it; bytes of bodies."""

    method: str
    path: str
    began: float = field(default_factory=time.perf_counter)
    began_at_ns: int = field(default_factory=time.time_ns)
    entry: Entry | None = None
    task_id: str = ""
    status: int = 0
    waited_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0


class Records:
    """Takes the records of requests as they end. `keep` is given those of functions, for the server."""

    def __init__(self, metrics: EdgeMetrics, keep: Callable[[WebRequest], None]) -> None:
        self._metrics = metrics
        self._keep = keep
        self._children: dict[tuple[str, int], tuple[Counter, Histogram, Histogram]] = {}  # finding them costs more than counting

    def ended(self, record: Record) -> None:
        """A request has ended; those that were refused at the door, of no function, are only counted."""
        seconds = time.perf_counter() - record.began
        metrics, entry = self._metrics, record.entry
        title = entry.route.title if entry else "none"
        count, lasted, waited = self._children.get((title, record.status)) or self._found(title, record.status)
        count.inc()
        metrics.received.inc(record.bytes_in)
        metrics.sent.inc(record.bytes_out)
        if entry is None:
            return
        lasted.observe(seconds)
        waited.observe(record.waited_s)
        self._keep(
            WebRequest(
                function_id=entry.function_id,
                task_id=record.task_id,
                call_id=entry.call_id,
                method=record.method,
                path=record.path[:MAX_PATH_CHARS],
                status=record.status,
                began_at_ns=record.began_at_ns,
                seconds=seconds,
                waited_s=record.waited_s,
                bytes_in=record.bytes_in,
                bytes_out=record.bytes_out,
            )
        )

    def _found(self, title: str, status: int) -> tuple[Counter, Histogram, Histogram]:
        metrics = self._metrics
        found = metrics.web_requests.labels(title, status), metrics.web_seconds.labels(title), metrics.web_waits.labels(title)
        self._children[title, status] = found
        return found
