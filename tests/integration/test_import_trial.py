"""Modules that are tried before a template imports them, by the interpreter that runs the tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pilotlight.node.templates import template

MODULES = {
    "quiet": "value = 1",
    "threads": "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "seeds": "import random; random.seed(1)",
    "environment": "import os; os.environ['SEEN'] = '1'",
    "opens": "import socket; kept = socket.socket()",
    "handles": "import signal; signal.signal(signal.SIGUSR1, print)",
    "moves": "import os; os.chdir('/')",
    "crashes": "import os; os.abort()",
    "leaves": "import os; os._exit(0)",
    "hangs": "import time; time.sleep(60)",
    "stays": "import os, time; os.fork() or time.sleep(60)",
    "raises": "raise RuntimeError('not here')",
}
SCRIPT = """
import json, sys
program, *names = sys.argv[1:]
sys.path.append(program)
import pilotlight_trial
pilotlight_trial.TRIAL_S = 3.0
before = set(sys.modules)
why = pilotlight_trial.try_out(names)
print(json.dumps({"why": why, "imported": sorted(set(sys.modules) - before)}))
"""


def tried(directory: Path, *names: str) -> str:
    for name, text in MODULES.items():
        (directory / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(template.PROGRAM), *names],
        env={"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    answer = json.loads(done.stdout)
    assert answer["imported"] == []
    return answer["why"]


def test_what_leaves_nothing_behind_may_be_imported(tmp_path: Path) -> None:
    assert tried(tmp_path, "quiet", "json") == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("threads", "keeps threads"),
        ("seeds", "seeds random numbers"),
        ("environment", "changes the environment"),
        ("opens", "opens files, sockets or devices"),
        ("handles", "sets signal handlers"),
        ("moves", "changes the directory"),
        ("crashes", "it ended with status"),
        ("leaves", "it ended with status 0"),
        ("hangs", "it took too long"),
        ("stays", "keeps processes"),
    ],
)
def test_what_does_may_not(tmp_path: Path, name: str, why: str) -> None:
    assert tried(tmp_path, "quiet", name).startswith(why)


def test_what_fails_to_import_is_left_to_whoever_wants_it(tmp_path: Path) -> None:
    assert tried(tmp_path, "raises", "quiet") == ""
