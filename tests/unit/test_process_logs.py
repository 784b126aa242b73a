import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from pilotlight.logging import configure


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_our_events_and_those_of_libraries_look_alike(stream: io.StringIO) -> None:
    configure("info", "edge", stream)
    structlog.get_logger().info("blob_stored", size_bytes=5)
    structlog.get_logger().debug("not_shown")
    logging.getLogger("some.library").warning("free %s", "text")
    logging.getLogger("uvicorn.error").info("not shown")
    ours, theirs = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (ours["event"], ours["size_bytes"], ours["process"], ours["level"]) == ("blob_stored", 5, "edge", "info")
    assert (theirs["event"], theirs["message"], theirs["logger"]) == ("library_message", "free text", "some.library")
    assert ours.keys() - {"size_bytes"} <= theirs.keys()


def test_an_exception_stays_on_its_line(stream: io.StringIO) -> None:
    configure("INFO", "edge", stream)
    try:
        raise ValueError("why")
    except ValueError as error:
        structlog.get_logger().error("request_failed", exc_info=error)
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]
