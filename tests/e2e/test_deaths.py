"""Containers and whole machines that die, or are taken out of service: every result is there once, and what died is replaced."""

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Platform, cgroups, content

from pilotlight.config import SETTINGS_FILE, Settings
from pilotlight.supervisor import leftovers, lock

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATIENCE_S = 150.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again: status is all that tells."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.2)


def test_a_container_that_takes_too_much_memory_dies_alone(platform: Platform) -> None:
    said = platform.run("deaths.py", "oom").out
    assert re.search(r"refused: .*3 containers died.*more memory than its limit of 256 MiB \(peak 25\d MiB\)", said, re.DOTALL), (
        said
    )


def test_a_drained_node_gives_its_inputs_back_and_goes_on_when_it_is_undrained(platform: Platform) -> None:
    program = platform.start("deaths.py", "drain")
    program.until("it has begun")
    assert "takes nothing new" in platform.control("node", "drain")
    until(lambda: not platform.status()["containers"], "no container is left")
    status = platform.status()
    assert [node["state"] for node in status["nodes"]] == ["drained"]
    assert any("drained" in waiting["why"] for waiting in status["waiting"]), status["waiting"]
    platform.control("node", "undrain")
    said = program.end().out
    hooks, begun = map(int, re.findall(r"exit hooks run: (\d+) begun: (\d+)", said)[0])
    assert hooks >= 1 and begun > 6, said  # those under way were interrupted, and begun anew elsewhere


def test_after_a_reboot_all_that_was_deployed_is_back(platform: Platform) -> None:
    platform.modal("deploy", "deaths.py")
    until(lambda: "warm" in ready(platform), "the container that is kept warm is there")
    call_id = re.findall(r"call (fc-\w+)", platform.run("deaths.py", "spawn").out)[0]
    reboot(platform)
    until(lambda: "warm" in ready(platform), "it is there again, though nobody called")
    assert "begun 2 times" in platform.run("deaths.py", "get", call_id).out
    [schedule] = [entry for entry in platform.status()["schedules"] if entry["app_name"] == "deaths"]
    assert schedule["function"] == "regularly" and schedule["next_at"] > time.time()
    platform.modal("app", "stop", "deaths", "--yes")
    until(lambda: not platform.status()["containers"], "nothing of the app is left")


def test_a_reboot_in_the_middle_of_a_map_loses_and_doubles_nothing(platform: Platform) -> None:
    program = platform.start("restarts.py", "map")
    program.until("results so far: 50")
    reboot(platform)
    assert "all is well" in program.end().out, program.text


def ready(platform: Platform) -> set[str]:
    return {container["function"] for container in platform.status()["containers"] if container["state"] == "ready"}


def reboot(platform: Platform) -> None:
    """All processes die at once, and what lived in memory is gone; then the machine comes up again."""
    settings = platform.settings
    resolved = Settings.load(settings.run_dir / SETTINGS_FILE)
    supervisor = lock.holder(settings)
    assert supervisor is not None
    groups = [path for ours in cgroups(f"pilotlight-{settings.instance}") for path, _, _ in os.walk(ours) if Path(path) != ours]
    inside = {int(line) for group in groups for line in content(Path(group, "cgroup.procs")).split()}
    pidfds = [fd for pid in (supervisor.pid, *leftovers.processes_of(settings), *inside) if (fd := leftovers.open_process(pid))]
    for fd in pidfds:
        with contextlib.suppress(ProcessLookupError):  # what waited for one that is dead already has ended by itself
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    leftovers.end_opened(pidfds, grace_s=10.0)
    for fd in pidfds:
        os.close(fd)
    shutil.rmtree(settings.run_dir)
    platform.control("up", "--detach", "--api", resolved.api, "--web", resolved.web, "--gpus", "A10G:2")
