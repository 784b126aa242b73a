"""What the outside check finds wrong, fault by fault; and how it reads what the kernel says of a process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight.node import bundle, seccomp, verifier
from pilotlight.node.observed import (
    Descriptor,
    Mount,
    Observed,
    parse_groups,
    parse_id_map,
    parse_interfaces,
    parse_mounts,
    parse_status,
    shared_mappings,
)
from pilotlight.node.rootfs import IdMap
from pilotlight.node.verifier import Expected, ExpectedMount, faults

HOST = {kind: number for number, kind in enumerate(("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"), 1)}
ROOT_SETS = f"{verifier.mask_of(bundle.DEFAULT_CAPABILITIES):016x}"
STATUS = f"""Name:\tinit
Uid:\t100000\t100000\t100000\t100000
Gid:\t100000\t100000\t100000\t100000
Groups:\t
Threads:\t1
CapInh:\t0000000000000000
CapPrm:\t{ROOT_SETS}
CapEff:\t{ROOT_SETS}
CapBnd:\t{ROOT_SETS}
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
"""
MOUNTINFO = """\
10 9 0:40 / / rw,nodev,relatime - overlay overlay rw,lowerdir=1:0
11 10 0:43 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
12 11 0:43 /sys /proc/sys ro,relatime - proc proc rw
13 10 254:0 /volumes/a\\040b /__modal/volumes/vo-1 rw,nosuid,nodev,relatime,idmapped - ext4 /dev/vda rw
14 10 254:0 /etc/hostname /etc/given ro,nosuid,nodev,relatime - ext4 /dev/vda rw
"""
RULES = (
    ExpectedMount("/", frozenset(("nodev",)), ("overlay",), "0:40", "/"),
    ExpectedMount("/proc", frozenset(("nosuid", "noexec", "nodev")), ("proc",), root="/"),
    ExpectedMount("/proc/sys", frozenset(("ro",)), ("proc",), root="/sys"),
    ExpectedMount("/__modal/volumes/vo-1", frozenset(("nosuid", "nodev")), device="254:0", root="/volumes/a b"),
    ExpectedMount("/etc/given", frozenset(("nosuid", "nodev", "ro"))),
)
OBSERVED = Observed(
    pid=7,
    status=parse_status(STATUS),
    namespaces={kind: number + 100 for kind, number in HOST.items()} | {"pid_for_children": HOST["pid"] + 100},
    user_parent=HOST["user"],
    user_owner=0,
    uid_map=parse_id_map("         0     100000      65536\n"),
    gid_map=parse_id_map("         0     100000      65536\n"),
    groups=parse_groups("4:memory:/outer/pilotlight-1/ta-1\n3:cpu,cpuacct:/pilotlight-1/ta-1\n0::/\n"),
    mounts=parse_mounts(MOUNTINFO),
    is_root_of_namespace=True,
    cwd_mount=10,
    program=(5, 6),
    interfaces=frozenset(("lo", "eth0")),
    descriptors=(Descriptor("pipe:[1]", 3), Descriptor("/proc/1/fd", 11)),
    filters=(b"filter",),
)
EXPECTED = Expected(
    ids=IdMap(100_000, 65_536),
    user=bundle.User(),
    groups={"memory": "/pilotlight-1/ta-1", "cpu": "/pilotlight-1/ta-1"},
    mounts=RULES,
    host=HOST,
    interfaces=frozenset(("lo", "eth0")),
    filters=(b"filter",),
    user_parent=HOST["user"],
    program=(5, 6),
)


def with_status(**fields: str) -> Callable[[Observed], Observed]:
    return lambda seen: replace(seen, status={**seen.status, **fields})


def with_mounts(before: str, after: str) -> Callable[[Observed], Observed]:
    assert before in MOUNTINFO
    return lambda seen: replace(seen, mounts=parse_mounts(MOUNTINFO.replace(before, after)))


def with_namespace(kind: str, number: int) -> Callable[[Observed], Observed]:
    return lambda seen: replace(seen, namespaces={**seen.namespaces, kind: number})


def also_mounted(line: str) -> Callable[[Observed], Observed]:
    return lambda seen: replace(seen, mounts=(*seen.mounts, *parse_mounts(line)))


def test_what_is_as_expected_has_no_fault() -> None:
    assert faults(OBSERVED, EXPECTED) == []


FAULTS: dict[str, Callable[[Observed], Observed]] = {
    **{f"host's {kind} namespace": with_namespace(kind, HOST[kind]) for kind in HOST if kind != "pid_for_children"},
    "its net namespace with ta-2": with_namespace("net", 999),
    "children would be in another pid namespace": with_namespace("pid_for_children", 55),
    "not below the one": lambda seen: replace(seen, user_parent=4),
    "belongs to user 100000": lambda seen: replace(seen, user_owner=100_000),
    "interfaces that nobody gave it: wlan0": lambda seen: replace(seen, interfaces=frozenset(("lo", "wlan0"))),
    "map of user ids is 0 0 4294967295": lambda seen: replace(seen, uid_map=((0, 0, 4_294_967_295),)),
    "map of group ids is 0 100000 65537": lambda seen: replace(seen, gid_map=((0, 100_000, 65_537),)),
    "map of user ids is empty": lambda seen: replace(seen, uid_map=()),
    "its Uid is": with_status(Uid="0\t0\t0\t0"),
    "its Gid is": with_status(Gid="100000\t100000\t0\t100000"),
    "groups that it should not be in: [4]": with_status(Groups="4"),
    "CapBnd has CAP_SYS_ADMIN": with_status(CapBnd=f"{int(ROOT_SETS, 16) | 1 << 21:016x}"),
    "CapEff has capability 19": with_status(CapEff=f"{int(ROOT_SETS, 16) | 1 << 19:016x}"),
    "CapPrm has": with_status(CapPrm="000001ffffffffff"),
    "CapInh has CAP_CHOWN": with_status(CapInh="0000000000000001"),
    "CapAmb has CAP_CHOWN": with_status(CapAmb="0000000000000001"),
    "no_new_privs": with_status(NoNewPrivs="0"),
    "process 12 traces it": lambda seen: replace(seen, tracer=12),
    "has 2 threads": with_status(Threads="2"),
    "memory that others may share": lambda seen: replace(seen, shared_memory=("7f00-7f01 rw-s 00000000 00:01 9 /dev/zero",)),
    "it shares its open files with process 3": lambda seen: replace(seen, shared_with=("its open files with process 3",)),
    "its system calls are not filtered": with_status(Seccomp="0"),
    "filtered (seccomp)": with_status(Seccomp="1"),
    "can't be read: no such call": lambda seen: replace(seen, filters=None, filters_why="no such call"),
    "another one": lambda seen: replace(seen, filters=(b"allow all", b"filter")),
    "control group for memory is /pilotlight-1/ta-9": lambda seen: replace(
        seen, groups={**seen.groups, "memory": "/pilotlight-1/ta-9"}
    ),
    "control group for cpu is None": lambda seen: replace(seen, groups={"memory": "/pilotlight-1/ta-1"}),
    "mounted at /host that nobody asked for (ext4 254:0, from /)": also_mounted("15 10 254:0 / /host rw - ext4 /dev/vda rw\n"),
    "mounted at /proc/sys that nobody": also_mounted("15 12 0:43 /sys /proc/sys rw - proc proc rw\n"),
    "nothing is mounted at /proc/sys": with_mounts("12 11 0:43 /sys /proc/sys ro,relatime - proc proc rw\n", ""),
    "at /proc/sys is wrong: it is not ro": with_mounts("/proc/sys ro,", "/proc/sys rw,"),
    "at /etc/given is wrong: it is not nodev": with_mounts("ro,nosuid,nodev", "ro,nosuid"),
    "at /__modal/volumes/vo-1 is wrong: it shows /volumes, not /volumes/a b": with_mounts("/volumes/a\\040b", "/volumes"),
    "at / is wrong: it shows device 0:41": with_mounts("0:40", "0:41"),
    "at / is wrong: it is a ext4": with_mounts("overlay overlay", "ext4 overlay"),
    "shared with others: master:4": with_mounts("/etc/given ro,nosuid,nodev,relatime -", "/etc/given ro,nosuid,nodev master:4 -"),
    "root is not the root": lambda seen: replace(seen, is_root_of_namespace=False),
    "working directory is outside": lambda seen: replace(seen, cwd_mount=99),
    "not our init": lambda seen: replace(seen, program=(5, 7)),
    "more of it than is looked at: maps has more": lambda seen: replace(seen, unread=("maps has more than 4 MiB",)),
    "open file from outside: /etc/shadow": lambda seen: replace(seen, descriptors=(Descriptor("/etc/shadow", 99),)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told(fault: str) -> None:
    told = faults(FAULTS[fault](OBSERVED), replace(EXPECTED, others={999: "ta-2"}))
    assert any(fault in line for line in told), told


def test_who_is_full_of_faults_does_not_size_what_is_told_of_them() -> None:
    mounts = "".join(f"{number} 10 254:0 / /{number}{'x' * 4000} rw - ext4 /dev/vda rw\n" for number in range(100, 1100))
    told = faults(also_mounted(mounts)(with_status(Groups=" ".join(map(str, range(65_536))))(OBSERVED)), EXPECTED)
    assert len(told) == verifier.MOST_FAULTS + 1 and told[-1] == "there are more faults"
    assert max(map(len, told)) <= verifier.FAULT_LENGTH + 1


def test_a_user_who_is_not_root_holds_no_capability() -> None:
    other = replace(EXPECTED, user=bundle.User(33, 34, (40,)))
    seen = with_status(Uid="100033 100033 100033 100033", Gid="100034 100034 100034 100034", Groups="100034 100040")(OBSERVED)
    told = faults(seen, other)
    assert [line.split(" has ")[0] for line in told] == ["its capability set CapPrm", "its capability set CapEff"]
    assert faults(with_status(CapPrm="0", CapEff="0")(seen), other) == []


def test_the_open_files_of_a_fork_are_exactly_those_that_were_given() -> None:
    expected = replace(EXPECTED, descriptors=frozenset(("pipe:[1]",)))
    assert faults(OBSERVED, expected) == ["it holds an open file that it should not: /proc/1/fd"]
    assert faults(replace(OBSERVED, descriptors=(Descriptor("pipe:[1]", 3),)), expected) == []
    # Else a fork could name another process of its image, which is in order, while it waits for what it is to be given.
    assert faults(replace(OBSERVED, descriptors=()), expected) == ["it does not hold what it was given: pipe:[1]"]


def test_a_filter_that_the_kernel_does_not_tell_is_believed_of_a_runtime_only() -> None:
    unknown = replace(OBSERVED, filters=None)
    assert faults(unknown, EXPECTED) and not faults(unknown, replace(EXPECTED, from_runtime=True))
    assert faults(replace(OBSERVED, filters=()), replace(EXPECTED, from_runtime=True))


def test_a_runtime_may_write_the_same_filter_otherwise() -> None:
    same = b"\x05" + bytes(7) + seccomp.program()  # a jump to the next instruction
    expected = replace(EXPECTED, filters=(seccomp.program(),))
    rewritten = replace(OBSERVED, filters=(same,))
    assert faults(rewritten, expected) and not faults(rewritten, replace(expected, from_runtime=True))
    assert faults(OBSERVED, replace(expected, from_runtime=True))
    assert faults(replace(OBSERVED, filters=(same, same)), replace(expected, from_runtime=True))


def test_hooks_of_the_machine_may_add_files_and_devices_of_the_driver() -> None:
    library = "15 10 254:0 /lib/libcuda.so /lib/libcuda.so ro,nosuid,nodev - ext4 /dev/vda rw\n"
    tree = "15 10 254:0 / /host rw,nosuid,nodev - ext4 /dev/vda rw\n"
    with_hooks = replace(EXPECTED, hooks_may_add=True)
    assert faults(also_mounted(library)(OBSERVED), EXPECTED)
    assert not faults(also_mounted(library)(OBSERVED), with_hooks)
    assert faults(also_mounted(tree)(OBSERVED), with_hooks)


def test_what_kernels_and_runtimes_add_by_themselves_is_no_fault() -> None:
    assert faults(replace(OBSERVED, interfaces=frozenset(("lo", "eth0", "tunl0", "sit0"))), EXPECTED) == []
    masked = ExpectedMount("/sys/firmware", frozenset(("ro",)), ("tmpfs",), or_root="/.empty-directory")
    expected = replace(EXPECTED, mounts=(*RULES, masked))
    for line, is_right in (
        ("15 10 0:59 / /sys/firmware ro,relatime - tmpfs tmpfs ro\n", True),
        ("15 10 254:0 /run/oci/.empty-directory /sys/firmware rw - ext4 /dev/vda rw\n", True),
        ("15 10 254:0 /etc /sys/firmware ro - ext4 /dev/vda rw\n", False),
        ("15 10 0:60 / /sys/firmware ro,relatime - sysfs sysfs ro\n", False),
    ):
        assert (faults(also_mounted(line)(OBSERVED), expected) == []) is is_right, line


def test_a_bundle_says_what_its_container_must_be() -> None:
    staged = (
        Mount(1, "0:40", "/", "/stage/root", frozenset(), frozenset(), "overlay"),
        Mount(2, "254:0", "/volumes/x", "/stage/d0", frozenset(), frozenset(), "ext4"),
    )
    binds = (bundle.BindMount(Path("/stage/d0"), "/vol", True), bundle.BindMount(Path("/dev/gpu"), "/dev/gpu", False, True))
    wanted = bundle.Bundle("ta-1", Path("/stage/root"), ("x",), {}, "/", bundle.User(), IdMap(), binds)
    made = verifier.expected_of(wanted, groups={}, host=HOST, staged=staged, interfaces=("lo",), program=(1, 2))
    rules = {rule.point: rule for rule in made.mounts}
    assert rules["/"].device == "0:40"
    assert rules["/vol"] == ExpectedMount("/vol", frozenset(("nosuid", "nodev", "ro")), ("ext4",), "254:0", "/volumes/x")
    assert rules["/dev/gpu"] == ExpectedMount("/dev/gpu", frozenset(("nosuid", "noexec")))
    assert {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/dev/null"} <= set(rules)
    assert made.from_runtime and made.user_parent == HOST["user"] and not made.hooks_may_add


def test_what_the_kernel_says_is_parsed() -> None:
    assert parse_interfaces("Inter-| Receive\n face |bytes\n    lo: 1 2\n  eth0: 3 4\n") == {"lo", "eth0"}
    assert parse_mounts(MOUNTINFO)[3].root == "/volumes/a b"
    assert parse_mounts("10 9 0:40 / /a\x0bb\u2028c rw - overlay overlay rw\n")[0].point == "/a\x0bb\u2028c"
    assert parse_groups("1:name=systemd:/a:b\n0::/c\n") == {"name=systemd": "/a:b", "": "/c"}
    maps = "55-56 r-xp 0 00:26 1 /usr/bin/python3\n56-57 rw-s 0 00:01 9 /dev/zero (deleted)\n57-58 rw-p 0 00:00 0 [heap]\n"
    assert shared_mappings(maps) == ("56-57 rw-s 0 00:01 9 /dev/zero (deleted)",)
