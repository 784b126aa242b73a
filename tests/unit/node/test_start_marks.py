"""The line about a container's start."""

import time

from structlog.testing import capture_logs

from pilotlight.node.start_marks import STEPS, StartMarks


def test_a_step_counts_when_it_is_first_reached_and_the_line_is_written_once():
    marks = StartMarks()
    with capture_logs() as lines:
        assert [marks.reach(step) for step in STEPS] == [True] * len(STEPS)
        assert not marks.reach("given")
        marks.tell("ta-1", {"overlay": 1.23456})
        marks.tell("ta-1", {})
    assert [(line["event"], line["task_id"], line["setup_ms"]) for line in lines] == [("task_began", "ta-1", {"overlay": 1.23})]
    reached = lines[0]["reached_ms"]
    assert tuple(reached) == STEPS
    assert list(reached.values()) == sorted(reached.values())


def test_a_step_may_have_been_reached_before_it_is_noted():
    marks = StartMarks()
    before_ns = time.time_ns()
    marks.reach("started")
    assert marks.reach("told", before_ns) and not marks.reach("told")
    with capture_logs() as lines:
        marks.tell("ta-1", {})
    reached = lines[0]["reached_ms"]
    assert reached["told"] <= reached["started"]


def test_a_container_that_got_nowhere_is_told_of_too():
    marks = StartMarks()
    with capture_logs() as lines:
        marks.tell("ta-1", {})
    assert [line["reached_ms"] for line in lines] == [{}]
