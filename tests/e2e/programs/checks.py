"""Runs the checks of a program against the platform that its environment names: every function `check_…` of the program.

A program is an ordinary Modal program that a person could have written; it runs unchanged with the newest and the oldest client.
Checks wait for containers most of their time, so several run at once. Each ends as one JSON line on stdout.
"""

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import modal

AT_ONCE = 4
NEWEST = not modal.__version__.startswith("1.1.")


def newest_only(check: Callable[[], None]) -> Callable[[], None]:
    """Marks a check of what the oldest client does not have yet."""
    check.newest_only = True  # type: ignore[attr-defined]
    return check


def last(check: Callable[[], None]) -> Callable[[], None]:
    """Marks a check that measures time, or harms others: it runs by itself when the others are done."""
    check.last = True  # type: ignore[attr-defined]
    return check


def run(app: modal.App, names: dict[str, Any], wanted: list[str]) -> None:
    """Run the app, and in it the checks that are wanted; all if none is named."""
    chosen = [value for name, value in names.items() if name.startswith("check_") and (not wanted or name in wanted)]
    chosen = [check for check in chosen if NEWEST or not getattr(check, "newest_only", False)]
    together: list[Callable[[], None]] = [check for check in chosen if not getattr(check, "last", False)]
    alone: list[Callable[[], None]] = [check for check in chosen if getattr(check, "last", False)]
    with app.run():
        with ThreadPoolExecutor(AT_ONCE) as workers:
            for _ in workers.map(_run_one, together):
                pass
        for check in alone:
            _run_one(check)
    sys.stdout.flush()


def _run_one(check: Callable[[], None]) -> None:
    began = time.monotonic()
    error = None
    try:
        check()
    except BaseException:  # noqa: BLE001 - reported, whatever it is
        error = traceback.format_exc()
    line = json.dumps({"check": check.__name__, "error": error, "seconds": round(time.monotonic() - began, 2)})
    os.write(1, (line + "\n").encode())


if __name__ == "__main__":
    program = importlib.import_module(sys.argv[1])
    run(program.app, vars(program), sys.argv[2:])
    # All is said: client 1.1 can hang in the tear-down of its own event loop, after a map that was left early.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
