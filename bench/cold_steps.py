"""Where the time of one cold call goes: the client's own clock, the server's books and the lines of the logs, side by side.

Each step is the time since the one before. All clocks are this machine's.
"""

import contextlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.figures import Figures


@dataclass(frozen=True)
class Call:
    """One cold call as the client saw it, in seconds since the epoch."""

    began_at: float
    ended_at: float


def lines(log: Path, event: str) -> list[dict[str, Any]]:
    """The lines of a log that tell of an event."""
    with log.open() as file:
        return [json.loads(line) for line in file if f'"event": "{event}"' in line]


def steps(state: Path, calls: Sequence[Call]) -> list[Figures]:
    """Milliseconds of each step, per call; calls whose container is not found in the books are left out."""
    begun = {line["task_id"]: line for line in lines(state / "logs" / "node.log", "task_began")}
    sent = {line["task_id"]: line for line in lines(state / "logs" / "server.log", "task_sent")}
    with contextlib.closing(sqlite3.connect(f"file:{state / 'pilotlight.db'}?mode=ro", uri=True)) as rows:
        accepted = [at for (at,) in rows.execute("SELECT created_at FROM calls ORDER BY created_at")]
        placed = dict(rows.execute("SELECT task_id, created_at FROM tasks").fetchall())
    found: list[Figures] = []
    for call in calls:
        tasks = [task_id for task_id, at in placed.items() if call.began_at <= at <= call.ended_at and task_id in begun]
        starts = [at for at in accepted if call.began_at <= at <= call.ended_at]
        if len(tasks) == 1 and len(starts) == 1 and tasks[0] in sent:
            found.append(_steps(call, starts[0], placed[tasks[0]], sent[tasks[0]], begun[tasks[0]]))
    return found


def _steps(call: Call, accepted_at: float, placed_at: float, sent: Mapping[str, Any], begun: Mapping[str, Any]) -> Figures:
    received_at = begun["received_ns"] / 1e9
    moments = {
        "client: from the call to its arrival at the server": accepted_at,
        "server: accepted, placed": placed_at,
        "server: command made": datetime.fromisoformat(sent["timestamp"]).timestamp(),
        "to the node": received_at,
    }
    names = {
        "prepared": "node: prepared",
        "started": "node: container made, looked at, told what it is",
        "greeted": "container: client starts, until its first request",
        "asked": "container: user's code imported, asks for an input",
        "given": "node: input handed out",
        "answered": "container: function runs, output",
    }
    reached_ms = _reached(begun)
    moments |= {names[step]: received_at + reached_ms[step] / 1000 for step in names if step in reached_ms}
    moments["output stored, on its way to the client"] = call.ended_at
    figures: Figures = {}
    before = call.began_at
    for name, at in moments.items():
        figures[name] = (at - before) * 1000
        before = at
    figures["all"] = (call.ended_at - call.began_at) * 1000
    return figures | {f"set-up: {part}": took_ms for part, took_ms in begun["setup_ms"].items()}


def _reached(begun: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds to each step. A forked container speaks as soon as it was told, often before the agent has noted that it did."""
    reached_ms = begun["reached_ms"]
    return reached_ms | ({"started": reached_ms["told"]} if "told" in reached_ms else {})
