"""Where the time of a cached `modal run examples/hello.py` goes.

    python -m bench.hello [--state DIR] [--set SETTING=VALUE] [--rounds 7] [--json]

The client's process is watched from its start to its end. "waits" is the time in which it has an RPC under way that it waits for.
Of that, "the client in the container" is the part in which a container's process was up and had not yet asked for an input (the
interpreter starts, imports the official client and the user's code), or had been told to end and had not. The rest of the waits is
"ours": our handling, the network, the set-up of containers, the way of each call, and also the user's code and the delays of the
client's own threads, so it is an upper bound. What is no wait is the client's own: starting, importing, printing. Where waits
overlap, the first is charged.
"""

import argparse
import contextlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import platform
from bench.figures import Figures, medians, show
from bench.processes import Failed
from bench.traced_client import Span

PROGRAM = "examples/hello.py"
# Held open for as long as there may be news: nobody waits for their end, but for that of the log once the app has ended.
BACKGROUND = {"AppGetLogs", "AppHeartbeat"}
LAST_WORDS = "AppGetLogs, after the end"


def charged(spans: Sequence[Span]) -> Figures:
    """Milliseconds per RPC, each moment charged once; the waits for outputs are told apart by the call they belong to."""
    figures: Figures = {}
    calls, covered_until = 0, 0.0
    for name, began, ended in sorted(spans, key=lambda span: span[1]):
        calls += name == "FunctionMap"
        if name in BACKGROUND:
            continue
        row = f"{name}, call {calls}" if name == "FunctionGetOutputs" else name
        figures[row] = figures.get(row, 0.0) + max(0.0, ended - max(began, covered_until)) * 1000
        covered_until = max(covered_until, ended)
    return figures


def last_words(spans: Sequence[Span]) -> list[Span]:
    """The wait for the rest of the log after the client has said that it is done."""
    done = max((ended for name, _, ended in spans if name == "AppClientDisconnect"), default=0.0)
    read = max((ended for name, _, ended in spans if name == "AppGetLogs"), default=0.0)
    return [(LAST_WORDS, done, read)] if read > done > 0 else []


def inside_containers(state: Path, since: float) -> list[tuple[float, float]]:
    """From a container's process to its first question, and from the end of the app to the container's: all after `since`."""
    with contextlib.closing(sqlite3.connect(f"file:{state / 'pilotlight.db'}?mode=ro", uri=True)) as rows:
        starts = "SELECT started_at, ready_at FROM tasks WHERE created_at > ? AND ready_at IS NOT NULL"
        ends = (
            "SELECT apps.stopped_at, tasks.finished_at FROM tasks JOIN apps USING (app_id) "
            "WHERE tasks.created_at > ? AND tasks.finished_at > apps.stopped_at"
        )
        return [*rows.execute(starts, (since,)), *rows.execute(ends, (since,))]


def overlap_ms(spans: Sequence[Span], intervals: Sequence[tuple[float, float]]) -> float:
    """For how long a wait of the client and one of the intervals went on together."""
    waits = joined([(began, ended) for name, began, ended in spans if name not in BACKGROUND])
    return sum(
        max(0.0, min(ended, until) - max(began, since)) * 1000 for began, ended in waits for since, until in joined(intervals)
    )


def joined(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same moments in intervals that do not overlap."""
    found: list[tuple[float, float]] = []
    for began, ended in sorted(intervals):
        if found and began <= found[-1][1]:
            found[-1] = (found[-1][0], max(ended, found[-1][1]))
        else:
            found.append((began, ended))
    return found


def one_round(running: platform.Platform, directory: Path) -> Figures:
    """One run of the program: where its time went, in milliseconds."""
    trace = directory / "trace.json"
    command = [sys.executable, "-m", "bench.traced_client", str(trace), "run", PROGRAM]
    environment, started, began_at = dict(running.environment), time.perf_counter(), time.time()
    done = subprocess.run(command, env=environment, cwd=platform.REPOSITORY, capture_output=True, text=True, check=False)
    total_ms = (time.perf_counter() - started) * 1000
    if done.returncode:
        raise Failed(f"modal run {PROGRAM} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    spans: list[Span] = [(name, began, ended) for name, began, ended in json.loads(trace.read_text())]
    to_counter = started - began_at
    starts = [(began + to_counter, ended + to_counter) for began, ended in inside_containers(running.state, began_at)]
    spans += last_words(spans)
    by_rpc = charged(spans)
    waits_ms, container_ms = sum(by_rpc.values()), overlap_ms(spans, starts)
    shares = {"client's own": total_ms - waits_ms, "the client in the container": container_ms, "ours": waits_ms - container_ms}
    return {"total": total_ms, **shares, "waits": waits_ms, **by_rpc}


def same_rows(rounds: Sequence[Figures]) -> list[Figures]:
    """The rounds with equal rows: an RPC that one of them did without took it no time."""
    rows = dict.fromkeys(row for figures in rounds for row in figures)
    return [{row: figures.get(row, 0.0) for row in rows} for figures in rounds]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with platform.running(options) as running, tempfile.TemporaryDirectory(prefix="pilotlight-hello-") as name:
        one_round(running, Path(name))  # builds and caches what the others find
        rounds = same_rows([one_round(running, Path(name)) for _ in range(options.rounds)])
    show("hello", {"ms": medians(rounds)}, options.json)


if __name__ == "__main__":
    main()
