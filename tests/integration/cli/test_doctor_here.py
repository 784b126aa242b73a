"""`pilotlight doctor` and `pilotlight logs` on the machine that runs the tests."""

import json
import re
import subprocess
import sys
from pathlib import Path

PILOTLIGHT = Path(sys.executable).with_name("pilotlight")


def _of_any_moment(text: str) -> str:
    """Without how much of the disk is free, of which others take and give while the test runs."""
    return re.sub(r"[\d.]+ GiB free", "GiB free", text)


def test_doctor_says_the_same_in_json(tmp_path: Path) -> None:
    command = [PILOTLIGHT, "doctor", "--state", tmp_path / "state"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=100, check=False)
    document = json.loads(as_json.stdout)
    assert told.returncode == as_json.returncode == (0 if document["ok"] else 1)
    assert all(_of_any_moment(finding["message"]) in _of_any_moment(told.stdout) for finding in document["findings"])
    assert not (tmp_path / "state").exists()


def test_logs_are_followed_over_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "node.log"
    log.parent.mkdir()
    log.write_text("first\n")
    command = [PILOTLIGHT, "logs", "-f", "node", "--state", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "first\n"
        with log.open("a") as more:
            more.write("second\nthi")
        assert following.stdout.readline() == "second\n"
        with log.open("a") as more:
            more.write("rd\n")
        assert following.stdout.readline() == "third\n"
        log.rename(log.with_name("node.log.1"))
        log.write_text("new\n")
        assert following.stdout.readline() == "new\n"
        following.terminate()
