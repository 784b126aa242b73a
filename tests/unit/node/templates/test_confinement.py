"""What a template may do beyond a container."""

from pilotlight.node import bundle, seccomp
from pilotlight.node.templates import confinement

NEW_NETWORK, NEW_USERS = 0x40000000, 0x10000000


def allowed_everywhere(document: dict) -> set[str]:
    rules = [rule for rule in document["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule]
    return {name for rule in rules for name in rule["names"]}


def values(name: str) -> set[int]:
    rules = [rule for rule in confinement.profile()["syscalls"] if name in rule["names"]]
    assert all(rule["action"] == "SCMP_ACT_ALLOW" for rule in rules)
    return {condition["valueTwo"] for rule in rules for condition in rule["args"]}


def test_it_is_a_containers_filter_and_the_calls_of_the_set_up() -> None:
    ours, containers = allowed_everywhere(confinement.profile()), allowed_everywhere(seccomp.profile())
    assert ours - containers == {"mount", "move_mount", "pivot_root", "umount2", "sethostname"}
    assert not containers - ours  # or its children, which keep it, would have less than a container


def test_nothing_that_a_container_is_refused_comes_back_otherwise() -> None:
    refused = {name for rule in confinement.profile()["syscalls"] if rule["action"] == "SCMP_ACT_ERRNO" for name in rule["names"]}
    assert {
        "bpf",
        "keyctl",
        "add_key",
        "init_module",
        "open_tree",
        "fsopen",
        "fsmount",
        "mount_setattr",
        "io_uring_setup",
    } <= refused


def test_a_template_never_owns_a_network() -> None:
    assert not any(flags & NEW_NETWORK for flags in values("unshare"))
    assert not any(kind & NEW_USERS for kind in values("setns"))


def test_user_namespaces_are_made_alone() -> None:
    assert [flags for flags in values("unshare") if flags & NEW_USERS] == [NEW_USERS]


def test_one_capability_more() -> None:
    assert {*confinement.CAPABILITIES} - {*bundle.DEFAULT_CAPABILITIES} == {"CAP_SYS_ADMIN"}


def test_the_program_is_larger_than_that_of_containers() -> None:
    assert len(confinement.program()) > len(seccomp.program())
