"""The pure parts of a container: its document, its user, its system calls, its lines, its address."""

import ipaddress
import json
import socket
from pathlib import Path

import pytest

from pilotlight.core import errors
from pilotlight.node import bundle, seccomp
from pilotlight.node.network import Addresses
from pilotlight.node.output import MAX_LINE_BYTES, LineSplitter
from pilotlight.node.rootfs import IdMap
from pilotlight.node.users import parse_user

FILES = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:web:/srv/web:/bin/sh\n",
    "/etc/group": "root:x:0:\nweb:x:34:\nlogs:x:40:other,web\n",
}


def document(user: bundle.User) -> dict:
    binds = (bundle.BindMount(Path("/src"), "/dst", True),)
    return bundle.config(
        bundle.Bundle(
            "ta-1", Path("/root-fs"), ("echo", "hi"), {"PATH": "/bin"}, "/srv", user, IdMap(5000, 10), binds, open_files_hard=100
        )
    )


def test_a_bundle_has_all_namespaces_and_its_own_id_range() -> None:
    made = document(bundle.User())
    assert {entry["type"] for entry in made["linux"]["namespaces"]} == {"user", "pid", "mount", "network", "uts", "ipc", "cgroup"}
    assert made["linux"]["uidMappings"] == made["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 5000, "size": 10}]
    assert made["process"]["noNewPrivileges"] is True
    assert made["process"]["args"] == [bundle.INIT_TARGET, "--", "echo", "hi"]
    assert made["process"]["env"] == ["PATH=/bin", "HOME=/root"]
    limits = {entry["type"]: (entry["soft"], entry["hard"]) for entry in made["process"]["rlimits"]}
    assert limits["RLIMIT_NOFILE"] == (100, 100)
    assert limits["RLIMIT_CORE"] == (1, 1)  # with 0 the kernel would start a handler of cores on the machine
    assert "ro" in made["mounts"][-1]["options"]


def test_only_root_holds_capabilities_and_none_may_forge_packets() -> None:
    assert document(bundle.User())["process"]["capabilities"]["effective"] == list(bundle.DEFAULT_CAPABILITIES)
    assert document(bundle.User(33, 33))["process"]["capabilities"]["effective"] == []
    assert not {"CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} & set(bundle.DEFAULT_CAPABILITIES)


def test_no_system_call_is_both_allowed_and_refused() -> None:
    lists = json.loads(seccomp.PROFILE_PATH.read_text())
    allowed, refused = ([name for group in lists[kind].values() for name in group] for kind in ("allowed", "refused"))
    assert len(set(allowed)) == len(allowed)
    assert len(set(refused)) == len(refused)
    assert not set(allowed) & set(refused)
    assert {"mount", "setns", "unshare", "bpf", "keyctl", "perf_event_open", "userfaultfd", "io_uring_setup"} <= set(refused)
    by_arguments = {"clone", "clone3", "socket", "socketpair", "personality", "ptrace"}
    assert not by_arguments & {*allowed, *refused}
    assert seccomp.profile()["defaultAction"] == "SCMP_ACT_ERRNO"


@pytest.mark.parametrize("name", ["socket", "socketpair"])
def test_only_the_usual_families_of_sockets_are_there(name: str) -> None:
    rules = [rule for rule in seccomp.profile()["syscalls"] if rule["names"] == [name]]
    allowed = {rule["args"][0]["valueTwo"] for rule in rules if rule["action"] == "SCMP_ACT_ALLOW"}
    assert allowed == {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET}
    assert socket.AF_VSOCK in {rule["args"][0]["valueTwo"] for rule in rules if rule["action"] == "SCMP_ACT_ERRNO"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", bundle.User()),
        ("web", bundle.User(33, 34, (40,), "/srv/web")),
        ("33", bundle.User(33, 34, (40,), "/srv/web")),
        ("web:logs", bundle.User(33, 40, (), "/srv/web")),
        ("1234", bundle.User(1234, 0, (), "/")),
        ("1234:5678", bundle.User(1234, 5678, (), "/")),
    ],
)
def test_users(name: str, expected: bundle.User) -> None:
    assert parse_user(name, lambda path: FILES[path]) == expected


@pytest.mark.parametrize("name", ["ghost", "web:ghosts"])
def test_users_that_are_not_there(name: str) -> None:
    with pytest.raises(errors.InvalidInput, match="ghost"):
        parse_user(name, lambda path: FILES[path])


def test_lines_are_handed_on_whole_unless_they_are_too_long() -> None:
    lines = LineSplitter()
    assert lines.feed(b"one\ntw") == b"one\n"
    assert lines.feed(b"o") == b""
    assert lines.feed(b"\nthree\n") == b"two\nthree\n"
    assert lines.feed(b"x" * (MAX_LINE_BYTES - 1)) == b""
    assert lines.feed(b"y") == b"x" * (MAX_LINE_BYTES - 1) + b"y"
    assert lines.feed(b"end") == b""
    assert (lines.rest(), lines.rest()) == (b"end", b"")


def test_addresses_are_used_again_only_when_all_were_used() -> None:
    addresses = Addresses(ipaddress.IPv4Network("10.0.0.0/29"))
    taken = [addresses.take() for _ in range(3)]
    assert str(taken[0]) == "10.0.0.2"  # the gateway is .1
    addresses.give_back(taken[0])
    rest = [addresses.take() for _ in range(2)]
    assert taken[0] not in rest
    assert addresses.take() == taken[0]
    with pytest.raises(errors.OverLimit):
        addresses.take()
