"""A campaign from beginning to end: a platform on a disk of its own, clients, faults, the verdict, what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import journal, traces, verdict
from tests.chaos.clients import ROLES
from tests.chaos.faults import Faults
from tests.chaos.schedule import Event
from tests.chaos.target import PlatformFailed, Target, wait_for

REPOSITORY = Path(__file__).parent.parent.parent
PROGRAM = Path(__file__).with_name("program.py")
DEPLOY_TIMEOUT_S = 600.0  # the first one builds an image from nothing
CALM_S = 120.0  # for all that was under way when the faults are over
REST_S = 90.0  # for the containers to end when nobody asks for anything
IDLE_S = 3.0
SWEPT_S = 12.0  # what the server looks through by itself it looks through every 10 s
SETTLE_S = 5.0  # after the last fault, until clients are told to come to an end
LONG_AFTER_S = 3 * 86_400.0  # what was made while the clock was ahead is old by then, and so is an upload that broke off
SHORT_LIVES = {  # what nobody needs any more goes at once, so that what is left can be counted
    "PILOTLIGHT_RESULT_TTL_S": "1",
    "PILOTLIGHT_GC_GRACE_S": "1",
    "PILOTLIGHT_IMAGE_TTL_S": "1",
}

Say = Callable[[str], None]


@dataclass
class Report:
    """What came of a campaign."""

    tally: verdict.Tally
    kills: int
    grown: dict[str, tuple[float, float]]

    @property
    def is_good(self) -> bool:
        return not self.tally.guilty and not self.grown


class Clients:
    """The client processes; they are stopped by the end of their standard input."""

    def __init__(self, target: Target, roles: Sequence[str], seed: int, directory: Path) -> None:
        self._directory = directory
        environment = {**target.client_environment(), "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for role in roles:
            command = [sys.executable, "-m", "tests.chaos.clients", role, "--seed", str(seed), "--journal", self._path(role)]
            with (directory / f"{role}.log").open("wb") as log:
                self._processes[role] = subprocess.Popen(
                    command, env=environment, cwd=directory, stdin=subprocess.PIPE, stdout=log, stderr=log
                )

    def _path(self, role: str) -> Path:
        return self._directory / f"{role}.jsonl"

    def entries(self) -> Iterable[journal.Entry]:
        for role in self._processes:
            if self._path(role).exists():
                yield from journal.read(self._path(role))

    def are_all_at_work(self) -> bool:
        """Whether each has come to the end of an operation."""
        return {entry.name.split("-")[0] for entry in self.entries() if entry.ended_at} >= set(self._processes)

    def dead(self) -> list[str]:
        return [role for role, process in self._processes.items() if process.poll() not in (None, 0)]

    def stop(self, limit_s: float) -> list[str]:
        """Let each end its operation and check what it was promised; the roles that did not in time, which are killed."""
        for process in self._processes.values():
            assert process.stdin is not None
            if process.poll() is None:
                process.stdin.close()
        deadline = time.monotonic() + limit_s
        late: list[str] = []
        for role, process in self._processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.append(role)
                process.send_signal(signal.SIGUSR1)  # it says in its log where it is
        if late:
            time.sleep(1.0)
        for role in late:
            self._processes[role].kill()
            self._processes[role].wait()
        return late


def deploy(target: Target, program: Path = PROGRAM) -> None:
    """Deploy a program by the stock command line, as often as it takes on a platform that nobody disturbs: once."""
    command = [sys.executable, "-m", "modal", "deploy", str(program)]
    subprocess.run(command, env=target.client_environment(), check=True, capture_output=True, timeout=DEPLOY_TIMEOUT_S)


@contextmanager
def at_work(target: Target, roles: Sequence[str], seed: int, directory: Path) -> Generator[Clients]:
    """Clients that are all at work; killed at the end if they still run."""
    clients = Clients(target, roles, seed, directory)
    try:
        wait_for(lambda: clients.are_all_at_work() or bool(clients.dead()), CALM_S, "all clients are at work")
        yield clients
    finally:
        clients.stop(0.0)


def run_events(faults: Faults, events: Iterable[Event], minutes: float, say: Say) -> None:
    """Do the events, each at its time or as soon after it as those before it are done."""
    began = time.monotonic()
    try:
        for event in events:
            if event.at_s > minutes * 60:
                return
            time.sleep(max(0.0, began + event.at_s - time.monotonic()))
            done = faults.do(event)
            say(f"{event}  {done}")
    finally:
        faults.close()


def campaign(
    target: Target,
    events: Sequence[Event],
    *,
    seed: int,
    minutes: float,
    directory: Path,
    say: Say,
    roles: Sequence[str] = tuple(ROLES),
    count_traces: bool = True,
) -> Report:
    """Run one against a platform that runs. What clients wrote and said stays in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    deploy(target)
    before: dict[str, float] = {}
    if count_traces:
        (directory / "calm").mkdir()
        with at_work(target, roles, seed, directory / "calm") as clients:
            clients.stop(CALM_S)
        before = at_rest(target)
        say(f"at rest before: {json.dumps(before)}")
    faults = Faults(target)
    with at_work(target, roles, seed, directory) as clients:
        say("all clients are at work")
        run_events(faults, events, minutes, say)
        wait_for(lambda: set(target.pids()) >= set(traces.ROLES), CALM_S, "all processes are there")
        time.sleep(SETTLE_S)
        late = clients.stop(CALM_S)
        dead = clients.dead()
        tally = verdict.judge(clients.entries(), faults.windows)
    tally.guilty += [f"hung: the client {role} did not end" for role in late]
    tally.guilty += [f"failed: the client {role} died: {tail(directory / f'{role}.log')}" for role in dead if role not in late]
    grown: dict[str, tuple[float, float]] = {}
    if count_traces:
        after = at_rest(target)
        say(f"at rest after: {json.dumps(after)}")
        grown = traces.grown(before, after)
    return Report(tally, faults.kills, grown)


def at_rest(target: Target) -> dict[str, float]:
    """Counts of a platform that has just been started, and has nothing to do or to keep but what is deployed."""
    try:
        wait_for(target.is_idle, REST_S, "no container is left")
    except PlatformFailed as error:
        raise PlatformFailed(f"{error}; there are {', '.join(sorted(target.containers()))}") from None
    target.down()
    if target.clock is not None:
        target.clock.set(LONG_AFTER_S)
    target.up(**SHORT_LIVES)
    time.sleep(SWEPT_S)
    target.command("gc")
    target.down()
    if target.clock is not None:
        target.clock.set(0.0)
    target.up(PILOTLIGHT_WARM_STARTS="false")  # which templates are made ahead of use depends on what was used last
    settle(target)
    return traces.count(target)


def settle(target: Target) -> None:
    """Wait until nothing runs, and what the node makes ready ahead of use is there."""
    seen: list[set[str]] = []

    def is_steady() -> bool:
        seen.append(set(target.containers()))
        time.sleep(IDLE_S)
        return target.is_idle() and seen[-1] == set(target.containers())

    wait_for(is_steady, REST_S, "nothing begins or ends any more")


def tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:]


def environment_seed() -> int:
    """A seed for whoever names none."""
    return int.from_bytes(os.urandom(3))
