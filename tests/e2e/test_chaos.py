"""A short campaign of faults, the same each time: nothing is lost, doubled, wrong or hung. `make chaos` runs long ones."""

import itertools
from pathlib import Path

import pytest
from conftest import Platform

from tests.chaos import leaks, schedule, starts_program, verdict
from tests.chaos.campaign import campaign
from tests.chaos.program import APP
from tests.chaos.schedule import Kind
from tests.chaos.target import Target

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SEED, KILLS, MEAN_GAP_S = 73, 8, 2.0  # with a kill of everything at the end
ROLES = ("map", "spawn", "generator", "queues")
KINDS = frozenset(Kind) - schedule.OF_A_DISK - schedule.OF_A_CLOCK - {Kind.FREEZE_NODE}


def test_nothing_is_lost_in_a_short_campaign(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTLIGHT_BUCKET_ALLOW_LOCAL", "1")  # as the fixture starts it
    target = Target(platform.settings, platform.up_options)
    events = list(schedule.draw(SEED, KILLS, KINDS, MEAN_GAP_S))
    said: list[str] = []
    report = campaign(target, events, seed=SEED, minutes=1.0, directory=tmp_path, say=said.append, roles=ROLES, count_traces=False)
    assert report.is_good, "\n".join(itertools.chain(said, [verdict.table(report.tally)], report.tally.guilty))
    assert report.kills >= KILLS - 2 and report.tally.total("right") > 10, said
    platform.modal("app", "stop", APP, "--yes")


def test_containers_leave_nothing_behind(platform: Platform) -> None:
    """`make leaks` starts thousands, and looks at memory too, which says nothing after so few."""
    target = Target(platform.settings, platform.up_options)
    report = leaks.measure(target, 60, print, calls_before=300, containers_before=40)
    assert report.starts > 50
    assert not {name: counts for name, counts in report.grown.items() if not name.startswith("MiB")}
    platform.modal("app", "stop", starts_program.APP, "--yes")
