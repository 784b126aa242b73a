"""A forked container is, for the program in it, what an ordinary one is: `programs/probe.py` looks at all that it can see.

What may differ is written in docs/warm-starts.md, and read from there.
"""

import itertools
import json
import re
from typing import Any

import pytest
from conftest import FIRST_BUILD_S, REPOSITORY, Platform

from pilotlight.config import SETTINGS_FILE, Settings

pytestmark = pytest.mark.e2e

Report = dict[str, Any]
IMPORTED_AHEAD = {"modules", "warnings"}  # to which imports add, and from which nothing may be missing


@pytest.fixture(scope="module")
def reports(platform: Platform) -> dict[str, list[Report]]:
    """Two reports of containers that were started the ordinary way, and two of forked ones."""
    if not Settings.load(platform.settings.run_dir / SETTINGS_FILE).warm_starts:
        pytest.skip("this platform has warm_starts off")
    platform.modal("deploy", "probe.py", deadline_s=FIRST_BUILD_S)
    found = json.loads(platform.run("probe.py").out)
    platform.modal("app", "stop", "--yes", "probe")
    assert {way: len(seen) for way, seen in found.items()} == {"ordinary": 2, "warm": 2}
    return found


def permitted() -> set[str]:
    """What may differ, by its name in the table."""
    text = (REPOSITORY / "docs" / "warm-starts.md").read_text()
    table = text.partition("<!-- permitted: begin -->")[2].partition("<!-- permitted: end -->")[0]
    return {name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def differing(one: Report, other: Report) -> dict[str, tuple[object, object]]:
    """What is not the same in two reports, by name."""
    pairs = [(one[part], other[part]) for part in ("seen", "checks")]
    return {
        name: (left.get(name), right.get(name))
        for left, right in pairs
        for name in {*left, *right}
        if left.get(name) != right.get(name)
    }


@pytest.mark.parametrize("way", ["ordinary", "warm"])
def test_containers_that_start_alike_see_the_same(reports: dict[str, list[Report]], way: str) -> None:
    one, other = reports[way]
    assert not differing(one, other).keys() - IMPORTED_AHEAD  # of forked ones the second may know more


def test_a_forked_container_differs_only_in_what_is_permitted(reports: dict[str, list[Report]]) -> None:
    found = differing(reports["ordinary"][0], reports["warm"][0])
    assert {name: values for name, values in found.items() if name not in permitted() | IMPORTED_AHEAD} == {}


@pytest.mark.parametrize("name", sorted(IMPORTED_AHEAD))
def test_what_is_imported_ahead_only_adds(reports: dict[str, list[Report]], name: str) -> None:
    for forked in reports["warm"]:
        present = iter(forked["seen"][name])
        assert [entry for entry in reports["ordinary"][0]["seen"][name] if entry not in present] == []  # in the same order


def test_all_that_is_permitted_does_differ(reports: dict[str, list[Report]]) -> None:
    assert permitted() - differing(reports["ordinary"][0], reports["warm"][0]).keys() == set()


def test_of_what_starts_from_a_program_only_the_number_of_filters_differs(reports: dict[str, list[Report]]) -> None:
    texts = [reports[way][0]["seen"]["a program started"] for way in ("ordinary", "warm")]
    assert texts[0].replace("Seccomp_filters:\t1", "Seccomp_filters:\t2") == texts[1]


def words_of_mounts(report: Report) -> dict[str, set[str]]:
    """By mount point, all that is said of the mount."""
    return {line.split()[0]: set(re.split(r"[ ,]", line)) for line in report["seen"]["mounts"]}


def test_the_mounts_are_the_same_and_what_they_allow_is_no_more(reports: dict[str, list[Report]]) -> None:
    ordinary, forked = (words_of_mounts(reports[way][0]) for way in ("ordinary", "warm"))
    assert ordinary.keys() == forked.keys()
    added = {point: forked[point] - ordinary[point] for point in forked}
    taken = {point: ordinary[point] - forked[point] for point in forked}
    assert set().union(*added.values()) <= {"ro", "nosuid", "noexec", "nodev"}
    assert {point: words for point, words in taken.items() if words} == {"/sys": {"rw"}}


def test_no_two_containers_share_what_must_be_random(reports: dict[str, list[Report]]) -> None:
    every = [report["unique"] for seen in reports.values() for report in seen]
    shared = {name for one, other in itertools.combinations(every, 2) for name in one if one[name] == other[name]}
    assert shared == set()
