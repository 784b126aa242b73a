"""What a template notices of what modules do while it imports them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.template_programs import loaded

from pilotlight.node.templates.template import PROGRAM


@pytest.fixture
def trial() -> ModuleType:
    return loaded("pilotlight_trial")


def test_variables_are_noticed_however_they_are_read(trial: ModuleType) -> None:
    with trial.ReadNames() as read:
        os.environ.get("ONE")
        os.getenv("TWO")
        os.environb.get(b"THREE")
        os.getenvb(b"FOUR")
        for odd in (5, None, []):
            with pytest.raises(TypeError):
                os.environ[odd]  # type: ignore[index]
    os.environ.get("FIVE")
    assert sorted(read.names) == ["FOUR", "ONE", "THREE", "TWO"]


_TRY_EACH = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import pilotlight_trial as trial
trial.TRIAL_S, trial.LOOK_S = 1.0, 0.1
print(json.dumps({name: (why, trial.was_prevented(why)) for name in sys.argv[3:] for why in [trial.try_out([name])]}))
"""
MODULES = {
    "good": "",
    "fails": "raise ImportError('no')",
    "exits": "import os; os._exit(3)",
    "is_killed": "import os; os.kill(os.getpid(), 9)",
    "hangs": "import time; time.sleep(600)",
}


def test_what_says_more_of_the_machine_than_of_a_module_is_told_apart(tmp_path: Path) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text + "\n")
    command = [sys.executable, "-c", _TRY_EACH, str(PROGRAM), str(tmp_path), *MODULES]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {name for name, (_, was_prevented) in found.items() if was_prevented} == {"is_killed", "hangs"}
    assert [found["good"][0], found["exits"][0]] == ["", "it ended with status 768"]
