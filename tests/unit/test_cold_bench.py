"""What is made of the times of cold starts."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from bench.cold import ROUNDS_OF_P99, summary
from bench.cold_steps import Call, steps


def test_a_percentile_is_told_where_there_are_enough_rounds_for_it() -> None:
    assert set(summary([3.0])) == set(summary([1.0] * (ROUNDS_OF_P99 - 1))) == {"best", "p50", "p95", "rounds"}
    assert "p99" in summary([1.0] * ROUNDS_OF_P99)


@pytest.mark.parametrize(
    ("reached_ms", "expected_ms"),
    [
        ({"prepared": 1.0, "started": 9.0, "greeted": 30.0}, [1.0, 8.0, 21.0]),
        ({"prepared": 1.0, "told": 7.0, "greeted": 8.0, "started": 9.0}, [1.0, 6.0, 1.0]),
        ({"prepared": 1.0}, [1.0]),
    ],
)
def test_a_forked_container_has_started_when_it_was_told(
    tmp_path: Path, reached_ms: dict[str, float], expected_ms: list[float]
) -> None:
    (tmp_path / "logs").mkdir()
    began = {"event": "task_began", "task_id": "ta-1", "received_ns": 3_000_000_000, "reached_ms": reached_ms, "setup_ms": {}}
    sent = {"event": "task_sent", "task_id": "ta-1", "timestamp": "1970-01-01T00:00:02.500000Z"}
    (tmp_path / "logs" / "node.log").write_text(json.dumps(began) + "\n")
    (tmp_path / "logs" / "server.log").write_text(json.dumps(sent) + "\n")
    with contextlib.closing(sqlite3.connect(tmp_path / "pilotlight.db")) as rows, rows:
        rows.execute("CREATE TABLE calls (created_at REAL)")
        rows.execute("CREATE TABLE tasks (task_id TEXT, created_at REAL)")
        rows.execute("INSERT INTO calls VALUES (1.5)")
        rows.execute("INSERT INTO tasks VALUES ('ta-1', 2.0)")
    [figures] = steps(tmp_path, [Call(1.0, 4.0)])
    took_ms = [took for step, took in figures.items() if step.startswith(("node: ", "container: "))]
    assert took_ms == pytest.approx(expected_ms, abs=1e-3)
    assert sum(took for step, took in figures.items() if step != "all") == pytest.approx(figures["all"])
