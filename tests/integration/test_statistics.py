"""What the stock client tells of functions and apps: what they did within a span of time, what was bound from them, what runs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import modal
import pytest
from platform_in_process import Platform

PROGRAM = """
import modal
app = modal.App("counted")
@app.function(serialized=True, scaledown_window=1200)
def half(number):
    return 1 // (number % 2)
@app.cls(serialized=True)
class Shelf:
    label: str = modal.parameter(default="none")
    @modal.method()
    def name(self):
        return self.label
"""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with pytest.MonkeyPatch.context() as patch:
        running = Platform()
        running.start()
        patch.setenv("MODAL_SERVER_URL", running.url)
        patch.setenv("MODAL_TOKEN_ID", running.token[0])
        patch.setenv("MODAL_TOKEN_SECRET", running.token[1])
        patch.setenv("MODAL_CONFIG_PATH", str(running.settings.state / "modal.toml"))
        patch.setenv("COLUMNS", "200")
        program = running.settings.state / "counted.py"
        program.write_text(PROGRAM)
        command("deploy", str(program))
        yield running
        running.stop()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[modal.Client]:
    with modal.Client.from_credentials(*platform.token) as client:
        yield client


@pytest.fixture(scope="module")
def half(client: modal.Client) -> modal.Function:
    function = modal.Function.from_name("counted", "half", client=client)
    outcomes = list(function.map(range(5), return_exceptions=True))
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 3
    return function


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "modal", *arguments], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def told(*arguments: str) -> Any:
    return json.loads(command(*arguments, "--json"))


def test_what_a_function_did(half: modal.Function) -> None:
    stats = half.stats()
    assert (stats.input_success_count, stats.input_failure_count, stats.input_timeout_count) == (2, 3, 0)
    assert stats.container_error_count == 0
    assert 1 <= stats.container_started_count <= stats.container_total_count
    assert "Execution time (s)" in stats.input_percentile_stats and "Startup time (s)" in stats.container_percentile_stats
    yesterday = datetime.now(UTC) - timedelta(days=1)
    before = half.stats(since=yesterday - timedelta(hours=1), until=yesterday)
    assert (before.input_success_count, before.container_total_count, before.input_percentile_stats) == (0, 0, {})
    with pytest.raises(modal.exception.InvalidError, match="7 days"):
        half.stats(since=yesterday - timedelta(days=8))


def test_the_statistics_of_one_container(half: modal.Function, platform: Platform) -> None:
    [task] = [task for task in platform.server.tasks.all() if task.pool.function.tag == "half"][:1]
    assert half.stats(container=task.task_id).container_total_count == 1
    assert half.stats(container="ta-none").input_success_count == 0


def test_what_the_command_line_shows_of_a_function(half: modal.Function) -> None:
    shown = command("function", "stats", "counted/half")
    assert "5 total" in shown and "2 succeeded (40.0%)" in shown, shown
    assert command("function", "info", "counted/half")


def test_calls_are_listed_by_time(half: modal.Function) -> None:
    newest = told("function", "calls", "counted/half")
    assert sorted(call["status"] for call in newest)[:3] == ["failure"] * 3
    assert all(call["container_id"].startswith("ta-") and call["execution_time_seconds"] < 10 for call in newest)
    oldest_first = told("function", "calls", "counted/half", "--since", "1h")
    assert [call["function_call_id"] for call in oldest_first] == [call["function_call_id"] for call in reversed(newest)]
    assert told("function", "calls", "counted/half", "--since", "3h", "--until", "2h") == []
    assert "Failure" in command("function", "calls", "counted/half", "--tail", "5")


def test_what_an_app_did(half: modal.Function, client: modal.Client) -> None:
    stats = modal.App.lookup("counted", client=client).stats()
    counts = stats.functions["half"].counts
    assert (counts.calls.total, counts.calls.succeeded, counts.calls.failed) == (5, 2, 3)
    assert stats.functions["half"].object_id == half.object_id
    assert "half" in command("app", "stats", "counted")


def test_variants_the_busiest_first_or_the_newest(client: modal.Client) -> None:
    shelf = modal.Cls.from_name("counted", "Shelf", client=client)
    idle, busy = shelf(label="idle"), shelf(label="busy")
    for instance in (idle, busy, shelf(label="newest")):
        assert instance.name.remote()
    listed = told("function", "variants", "counted/Shelf.*")
    assert {entry["parameters"]["label"] for entry in listed} == {"idle", "busy", "newest"}
    newest_first = told("function", "variants", "counted/Shelf.*", "--limit", "0")
    assert [entry["parameters"]["label"] for entry in newest_first] == ["newest", "busy", "idle"]
    assert "all variants (3 variants)" in command("function", "stats", "counted/Shelf.*", "--all-variants")


def test_containers_are_listed(half: modal.Function) -> None:
    half.remote(1)
    assert any(row for row in told("container", "list") if "counted" in str(row.values()))


def test_current_statistics_name_what_runs_and_what_there_is_room_for(half: modal.Function) -> None:
    half.remote(1)
    now = half.get_current_stats()
    assert (now.backlog, now.num_running_inputs) == (0, 0)
    assert now.num_total_runners == now.input_headroom >= 1


def test_no_time_is_wasted_on_a_span_that_is_none(half: modal.Function, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modal", "function", "stats", "counted/half", "--since", "30d"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0 and "7 days" in done.stdout + done.stderr


def test_what_a_function_did_over_time(half: modal.Function, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = half.metrics.schema()
    assert list(schema) == ["calls", "containers", "cpu", "memory", "gpu"]
    in_two_minutes = datetime.now(UTC) + timedelta(minutes=2)  # by then the minute of the calls is over
    monkeypatch.setattr(platform.server.timelines, "_now", in_two_minutes.timestamp)
    metrics = half.metrics.export(since=in_two_minutes - timedelta(hours=1), until=in_two_minutes)
    assert metrics.bucket_size == timedelta(minutes=1) and metrics.point_count == 60 * len(metrics.series)
    assert set(metrics.series) == {definition.name for group in schema.values() for definition in group.definitions}

    def total(name: str) -> float:
        return sum(point.value or 0.0 for point in metrics[name].points)

    assert total("successful_calls_count") >= 2 and total("failed_calls_count") == 3
    assert total("new_calls_count") == total("successful_calls_count") + total("failed_calls_count")
    assert total("started_containers_count") >= 1 and max(point.value or 0 for point in metrics["active_containers_max"].points)
    assert (metrics["execution_time_p50"].aggregation, metrics["execution_time_p50"].unit) == ("p50", "s")
    times = [point.value for point in metrics["execution_time_p50"].points]
    assert any(value is not None for value in times) and times[0] is None  # nothing ran an hour ago


def test_a_minute_that_is_not_over_is_not_known(half: modal.Function) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=3)
    metrics = half.metrics.export(since=soon - timedelta(minutes=10), until=soon, groups=["calls"])
    assert [point.value for point in metrics["new_calls_count"].points[-2:]] == [None, None]


def test_what_the_command_line_shows_of_time(half: modal.Function) -> None:
    shown = command("function", "metrics", "counted/half")
    assert "calls, containers, cpu, gpu, memory" in shown and "execution_time_{p50,p90,p99,max} (s)" in shown, shown
    exported = told("function", "metrics", "counted/half", "--group", "calls", "--since", "3h")
    assert exported["object_id"] == half.object_id and exported["bucket_secs"] == 120
    assert {series["name"] for series in exported["series"]} >= {"new_calls_count", "successful_calls_count", "latency_p99"}
    assert "timed_out_calls_count,calls," in command("function", "metrics", "counted/half", "--csv", "--bucket-size", "5m")
    command("function", "metrics", "counted/Shelf.*", "--all-variants", "--json")
    with pytest.raises(modal.exception.InvalidError, match="no series of 'network'"):
        half.metrics.export(groups=["network"])
