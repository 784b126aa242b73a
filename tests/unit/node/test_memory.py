"""What a node offers never takes the machine down."""

from pathlib import Path

import pytest

from pilotlight.node.cgroups import Groups, Limits, Place
from pilotlight.node.memory import bounded_mib, visible_mib


@pytest.mark.parametrize(
    ("wished", "visible", "offered"),
    [(0, 100_000, 95_000), (0, 4_096, 3_584), (0, 800, 400), (1_000, 4_096, 1_000), (4_096, 4_096, 3_584)],
)
def test_a_part_is_kept_for_the_system(wished: int, visible: int, offered: int) -> None:
    assert bounded_mib(wished, visible) == offered


@pytest.mark.parametrize(("version", "file"), [(1, "memory.limit_in_bytes"), (2, "memory.max")])
def test_the_own_groups_limit_counts(tmp_path: Path, version: int, file: str) -> None:
    (tmp_path / file).write_text(f"{64 << 20}\n")
    assert visible_mib({"memory": Place(version, tmp_path)}) == 64
    (tmp_path / file).write_text("max\n")
    assert visible_mib({"memory": Place(version, tmp_path)}) > 64


@pytest.mark.parametrize(
    ("version", "limit", "request_file"),
    [(1, "memory.limit_in_bytes", "memory.soft_limit_in_bytes"), (2, "memory.max", "memory.low")],
)
def test_all_containers_together_have_a_limit_and_each_its_request(
    tmp_path: Path, version: int, limit: str, request_file: str
) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory")
    parent, child = tmp_path / "pl", tmp_path / "pl" / "ta-1"
    child.mkdir(parents=True)
    for path in (tmp_path / "cgroup.subtree_control", parent / "cgroup.subtree_control", parent / limit, child / request_file):
        path.touch()
    groups = Groups("pl", {"memory": Place(version, tmp_path)}, memory_mib=2_048)
    groups.open()
    assert (parent / limit).read_text() == str(2_048 << 20)
    groups.of("ta-1").create(Limits(memory_request_mib=128))
    assert (child / request_file).read_text() == str(128 << 20)
