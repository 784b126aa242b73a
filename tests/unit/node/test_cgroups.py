"""Where controllers are found, and what the limits are called in both versions."""

from pathlib import Path

import pytest

from pilotlight.node.cgroups import Group, Groups, Limits, Place, Usage, find_places, settings

V1 = """30 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 24 0:29 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"""
V2 = "33 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def test_pure_v1_goes_below_the_own_group_even_where_the_root_is_not_the_whole() -> None:
    places = find_places(V1, "4:memory:/own/group\n3:cpu,cpuacct:/\n2:pids:/docker/x/deep\n0::/")
    assert places == {
        "memory": Place(1, Path("/sys/fs/cgroup/memory/own/group")),
        "cpu": Place(1, Path("/sys/fs/cgroup/cpu,cpuacct")),
        "cpuacct": Place(1, Path("/sys/fs/cgroup/cpu,cpuacct")),
        "pids": Place(1, Path("/sys/fs/cgroup/pids/deep")),
    }


def test_pure_v2_and_hybrid() -> None:
    assert find_places(V2, "0::/user.slice") == {name: Place(2, Path("/sys/fs/cgroup")) for name in ("memory", "cpu", "pids")}
    hybrid = find_places(V1.splitlines()[0] + "\n" + V2, "4:memory:/\n0::/")
    assert (hybrid["memory"].version, hybrid["cpu"].version, "cpuacct" in hybrid) == (1, 2, False)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (1, {"memory.memsw.limit_in_bytes": "-1", "memory.limit_in_bytes": "-1"}),
        (2, {"memory.swap.max": "max", "memory.max": "max"}),
    ],
)
def test_the_limit_of_memory_is_taken_off(tmp_path: Path, version: int, expected: dict[str, str]) -> None:
    for name in expected:
        (tmp_path / name).touch()
    Group({"memory": (version, tmp_path), "pids": (version, tmp_path)}).free_memory()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == expected


def test_where_memory_is_not_limited_nothing_is_taken_off(tmp_path: Path) -> None:
    Group({"pids": (1, tmp_path)}).free_memory()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("controller", "version", "expected"),
    [
        ("memory", 1, [("memory.limit_in_bytes", "104857600")]),
        ("memory", 2, [("memory.max", "104857600")]),
        ("pids", 2, [("pids.max", "64")]),
        ("cpu", 1, [("cpu.shares", "2048"), ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")]),
        ("cpu", 2, [("cpu.weight", "200"), ("cpu.max", "50000 100000")]),
        ("cpuacct", 1, []),
    ],
)
def test_limits(controller: str, version: int, expected: list[tuple[str, str]]) -> None:
    limits = Limits(milli_cpu=250, milli_cpu_limit=500, memory_mib=100, pids=64)
    assert list(settings(controller, version, limits)) == expected
    assert list(settings(controller, version, Limits())) == []


def test_v2_groups_are_enabled_made_and_read(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory")
    for directory in (tmp_path, tmp_path / "pl"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.subtree_control").touch()
    groups = Groups("pl", {name: Place(2, tmp_path) for name in ("memory", "cpu", "pids")})
    assert groups.open() == ["pids"]
    assert (tmp_path / "pl" / "cgroup.subtree_control").read_text() == "+memory +cpu"
    group: Group = groups.of("ta-1")
    assert group.entrances == [tmp_path / "pl" / "ta-1" / "cgroup.procs"]
    directory = tmp_path / "pl" / "ta-1"
    directory.mkdir()
    assert group.usage() == Usage()
    (directory / "memory.peak").write_text("4096\n")
    (directory / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    (directory / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert group.usage() == Usage(4096, 1.5, 2)
    assert [left.entrances for left in groups.leftovers()] == [group.entrances]


@pytest.mark.parametrize(
    ("version", "file", "weights"),
    [(1, "cpu.shares", ["1024", "9216", "8192"]), (2, "cpu.weight", ["100", "900", "800"])],
)
def test_the_parent_weighs_as_much_as_its_containers(tmp_path: Path, version: int, file: str, weights: list[str]) -> None:
    groups = Groups("pl", {"cpu": Place(version, tmp_path)})
    (tmp_path / "pl").mkdir()
    (tmp_path / "pl" / file).touch()
    seen: list[str] = []
    for container, milli_cpu in (("ta-1", 0), ("ta-2", 1000), ("ta-1", None)):
        groups.weigh(container, milli_cpu)
        seen.append((tmp_path / "pl" / file).read_text())
    assert seen == weights


def test_what_the_paths_of_a_container_have_in_them() -> None:
    group = Groups(
        "pilotlight-1", {"memory": Place(1, Path("/m/own")), "pids": Place(2, Path("/u")), "cpu": Place(2, Path("/u"))}
    ).of("ta-1")
    assert group.endings == {"memory": "/pilotlight-1/ta-1", "": "/pilotlight-1/ta-1"}
