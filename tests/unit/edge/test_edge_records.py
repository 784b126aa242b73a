"""What is told of requests that have ended."""

from pilotlight.edge.admission import Entry
from pilotlight.edge.metrics import EdgeMetrics
from pilotlight.edge.records import MAX_PATH_CHARS, Record, Records
from pilotlight.wire.platform_pb2 import WebRequest, WebRoute


def test_no_path_is_so_long_that_the_books_swell() -> None:
    kept: list[WebRequest] = []
    record = Record("GET", "/" + "x" * (64 << 10), entry=Entry(WebRoute(title="a.f"), "fu-1", "fc-1"), status=200)
    Records(EdgeMetrics(), kept.append).ended(record)
    assert [(request.function_id, len(request.path), request.status) for request in kept] == [("fu-1", MAX_PATH_CHARS, 200)]


def test_what_was_refused_at_the_door_is_in_no_books() -> None:
    kept: list[WebRequest] = []
    Records(EdgeMetrics(), kept.append).ended(Record("GET", "/", status=404))
    assert kept == []
