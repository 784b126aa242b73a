"""The outside check of every container: is it what it was meant to be, before it is given anything?

Owns one invariant: a container runs none of its program before all of its properties, read from outside by the agent, are those
that were wanted; what no rule explains is a fault. `faults` is pure; `observe` reads (see `observed`).
"""

import functools
import itertools
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight.node import bpf, bundle, seccomp
from pilotlight.node.bundle import User
from pilotlight.node.observed import IdRanges, Mount, Observed, observe
from pilotlight.node.rootfs import IdMap

__all__ = ["Expected", "ExpectedMount", "Observed", "expected_of", "faults", "observe", "standard_mounts"]

# linux/capability.h; a set is a mask of these bits.
CAPABILITY_BITS = {
    **{"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_FSETID": 4, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7},
    **{"CAP_SETPCAP": 8, "CAP_NET_BIND_SERVICE": 10, "CAP_SYS_CHROOT": 18, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27},
    **{"CAP_AUDIT_WRITE": 29, "CAP_SETFCAP": 31},
}
_SEPARATE = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_SECCOMP_FILTER = "2"
MOST_FAULTS = 20  # that are told of one process
FAULT_LENGTH = 500
# Ends of tunnels, all down, that modules of the kernel make in every new network namespace (net.core.fb_tunnels_only_for_init_net).
_KERNEL_INTERFACES = frozenset(
    ("erspan0", "gre0", "gretap0", "ip6_vti0", "ip6gre0", "ip6tnl0", "ip_vti0", "ip6erspan0", "sit0", "tunl0")
)
_EMPTY_DIRECTORY = "/.empty-directory"  # of the runtime's own, over what newer versions of crun mask


@dataclass(frozen=True)
class ExpectedMount:
    """A mount that may be there, and with `needed` must be. `device` and `root`, where given, say what shows there; a root that
    ends with `or_root` will do as well, whatever else it is. `options` are those that it must have, among others.
    """

    point: str
    options: frozenset[str]
    kinds: tuple[str, ...] = ()
    device: str = ""
    root: str = ""
    needed: bool = True
    or_root: str = ""


@dataclass(frozen=True)
class Expected:
    """All that a container must be.

    `groups` maps each controller that this machine has to what the container's path there has in it. `host` are the agent's
    namespaces, `others` those of other live containers, with their names (`Admission` fills it). `descriptors` are links
    ("pipe:[7]") of exactly the files that are open; None: any pipe, socket or anonymous one, and files of the container's own
    mounts. `filters` are the exact seccomp programs, the oldest first; `from_runtime`: an OCI runtime made it, so any will do
    where the kernel does not tell which. `alone`: one thread, and no memory shared. `hooks_may_add`: programs of the machine's
    owner mount what no rule here knows.
    """

    ids: IdMap
    user: User
    groups: Mapping[str, str]
    mounts: tuple[ExpectedMount, ...]
    host: Mapping[str, int]
    interfaces: frozenset[str]
    filters: tuple[bytes, ...]
    others: Mapping[int, str] = field(default_factory=dict[int, str])
    user_parent: int = 0
    user_owner: int = 0
    from_runtime: bool = False
    descriptors: frozenset[str] | None = None
    program: tuple[int, int] | None = None
    bounding: frozenset[str] = frozenset(bundle.DEFAULT_CAPABILITIES)
    alone: bool = True
    read_from: frozenset[str] = frozenset()  # devices ("fe:00") of which files may be mapped, shared, to be read
    hooks_may_add: bool = False


def faults(observed: Observed, expected: Expected) -> list[str]:
    """What is wrong, in words; empty if all is as expected. A process that is full of faults does not size what is told of it."""
    every = itertools.chain(
        (f"there is more of it than is looked at: {what}" for what in observed.unread),
        _namespace_faults(observed, expected),
        _user_faults(observed, expected),
        _right_faults(observed, expected),
        _filter_faults(observed, expected),
        _group_faults(observed, expected),
        mount_faults(observed.mounts, expected),
        _place_faults(observed, expected),
        _descriptor_faults(observed, expected),
    )
    found = [fault if len(fault) <= FAULT_LENGTH else f"{fault[:FAULT_LENGTH]}…" for fault in itertools.islice(every, MOST_FAULTS)]
    return [*found, "there are more faults"] if next(every, None) is not None else found


def _namespace_faults(observed: Observed, expected: Expected) -> Iterable[str]:
    for kind in _SEPARATE:
        inode = observed.namespaces[kind]
        if inode == expected.host[kind]:
            yield f"it is in the host's {kind} namespace"
        elif inode in expected.others:
            yield f"it shares its {kind} namespace with {expected.others[inode]}"
    if observed.namespaces["pid_for_children"] != observed.namespaces["pid"]:
        yield "its children would be in another pid namespace"
    if expected.user_parent and observed.user_parent != expected.user_parent:
        yield "its user namespace is not below the one that it should be"
    if observed.user_owner != expected.user_owner:
        yield f"its user namespace belongs to user {observed.user_owner}, not to {expected.user_owner}"
    if extra := observed.interfaces - expected.interfaces - _KERNEL_INTERFACES:
        yield f"it has network interfaces that nobody gave it: {', '.join(sorted(extra))}"


def _user_faults(observed: Observed, expected: Expected) -> Iterable[str]:
    wanted: IdRanges = ((0, expected.ids.first, expected.ids.count),)
    for name, found in (("user", observed.uid_map), ("group", observed.gid_map)):
        if found != wanted:
            yield f"its map of {name} ids is {_ranges(found)}, not {_ranges(wanted)}"
    first, user = expected.ids.first, expected.user
    for name, number in (("Uid", user.uid), ("Gid", user.gid)):
        if set(observed.field(name).split()) != {str(first + number)}:
            yield f"its {name} is {observed.field(name)!r}, not four times {first + number}"
    found_groups = {int(group) for group in observed.field("Groups").split()}
    if extra := found_groups - {first + group for group in (*user.groups, user.gid)}:
        yield f"it is in groups that it should not be in: {sorted(extra)}"


def _right_faults(observed: Observed, expected: Expected) -> Iterable[str]:
    bound = mask_of(expected.bounding)
    held = bound if expected.user.uid == 0 else 0
    for name, most in (("CapBnd", bound), ("CapPrm", held), ("CapEff", held), ("CapInh", 0), ("CapAmb", 0)):
        if extra := int(observed.field(name) or "0", 16) & ~most:
            yield f"its capability set {name} has {_capabilities(extra)} too many"
    if observed.field("NoNewPrivs") != "1":
        yield "it may gain privileges by running a program (no_new_privs is not set)"
    if observed.tracer:
        yield f"process {observed.tracer} traces it"
    if expected.alone and observed.field("Threads") != "1":
        yield f"it has {observed.field('Threads')} threads, not one"
    if expected.alone:
        for mapping in observed.shared_memory:
            if not _is_read_from(mapping, expected.read_from):
                yield f"it has memory that others may share: {mapping}"
    for shared in observed.shared_with:
        yield f"it shares {shared}"


def _is_read_from(mapping: str, devices: Iterable[str]) -> bool:
    _, rights, _, device, *_ = mapping.split()
    return rights == "r--s" and device in devices


def _filter_faults(observed: Observed, expected: Expected) -> Iterable[str]:
    if observed.field("Seccomp") != _SECCOMP_FILTER:
        yield "its system calls are not filtered (seccomp)"
        return
    if observed.filters is None:
        if not expected.from_runtime:
            yield f"the filter of its system calls can't be read: {observed.filters_why}"
    elif observed.filters != expected.filters and not (expected.from_runtime and _answer_alike(observed.filters, expected.filters)):
        yield "the filter of its system calls is another one than it should be"


def _answer_alike(found: tuple[bytes, ...], wanted: tuple[bytes, ...]) -> bool:
    """Runtimes that were built with another libseccomp than ours write the same rules otherwise."""
    architecture = bpf.ARCHITECTURES.get(platform.machine(), 0)
    return len(found) == len(wanted) and all(bpf.same_answers(*pair, architecture) for pair in zip(found, wanted, strict=True))


def _group_faults(observed: Observed, expected: Expected) -> Iterable[str]:
    for controller, end in expected.groups.items():
        found = observed.groups.get(controller)
        if found is None or f"{end}/" not in f"{found}/":  # or one below it: some runtimes make another level
            yield f"its control group for {controller or 'everything (v2)'} is {found}, which is not its own ({end})"


def mount_faults(mounts: Iterable[Mount], expected: Expected) -> Iterable[str]:
    """What is wrong with the mounts of a namespace."""
    left: dict[str, list[ExpectedMount]] = {}
    for rule in expected.mounts:
        left.setdefault(rule.point, []).append(rule)
    for mount in mounts:
        rules = left.get(mount.point, [])
        matching = next((rule for rule in rules if not _mismatch(mount, rule)), None)
        if matching is not None:
            rules.remove(matching)
        elif rules:
            yield f"the mount at {mount.point} is wrong: {_mismatch(mount, rules[0])}"
            rules.remove(rules[0])
        elif not (expected.hooks_may_add and _may_be_from_hook(mount)):
            yield f"something is mounted at {mount.point} that nobody asked for ({mount.kind} {mount.device}, from {mount.root})"
        if mount.propagation:
            yield f"mounts at {mount.point} are shared with others: {' '.join(sorted(mount.propagation))}"
    for rule in itertools.chain.from_iterable(left.values()):
        if rule.needed:
            yield f"nothing is mounted at {rule.point}, which should be"


def _mismatch(mount: Mount, rule: ExpectedMount) -> str:
    if rule.or_root and mount.root.endswith(rule.or_root):
        return ""
    if rule.kinds and mount.kind not in rule.kinds:
        return f"it is a {mount.kind}, not a {' or '.join(rule.kinds)}"
    if rule.device and mount.device != rule.device:
        return f"it shows device {mount.device}, not {rule.device}"
    if rule.root and mount.root != rule.root:
        return f"it shows {mount.root}, not {rule.root}"
    if missing := rule.options - mount.options:
        return f"it is not {', '.join(sorted(missing))}"
    return ""


def _may_be_from_hook(mount: Mount) -> bool:
    # The container toolkit's hook shows the driver's files, one by one, and devices: never a directory tree that can be written.
    return "nosuid" in mount.options and ("ro" in mount.options or mount.point.startswith(("/dev/nvidia", "/proc/driver/nvidia")))


def _place_faults(observed: Observed, expected: Expected) -> Iterable[str]:
    if not observed.is_root_of_namespace:
        yield "its root is not the root of its mount namespace, in which more may lie"
    if observed.cwd_mount not in {mount.mount_id for mount in observed.mounts}:
        yield "its working directory is outside of its mount namespace"
    if expected.program is not None and observed.program != expected.program:
        yield "its first program is not our init"


def _descriptor_faults(observed: Observed, expected: Expected) -> Iterable[str]:
    if expected.descriptors is not None:
        found = {descriptor.link for descriptor in observed.descriptors}
        for link in sorted(found - expected.descriptors):
            yield f"it holds an open file that it should not: {link}"
        for link in sorted(expected.descriptors - found):
            yield f"it does not hold what it was given: {link}"
        return
    own = {mount.mount_id for mount in observed.mounts}
    for descriptor in observed.descriptors:
        if descriptor.link.startswith("/") and descriptor.mount_id not in own:
            yield f"it holds an open file from outside: {descriptor.link}"


# ---- what is expected ----


def expected_of(
    wanted: bundle.Bundle,
    *,
    groups: Mapping[str, str],
    host: Mapping[str, int],
    staged: Iterable[Mount],
    interfaces: Iterable[str],
    program: tuple[int, int],
) -> Expected:
    """What a container must be that an OCI runtime makes of this bundle.

    `staged` are the mounts among which the bundle's root and the sources of its binds are found by their paths; `program` is device
    and inode of our init.
    """
    by_point = {mount.point: mount for mount in staged}
    root = by_point[str(wanted.root)]
    return Expected(
        ids=wanted.ids,
        user=wanted.user,
        groups=groups,
        mounts=(*standard_mounts(root.device), *(_expected_bind(bind, by_point.get(str(bind.source))) for bind in wanted.binds)),
        host=host,
        interfaces=frozenset(interfaces),
        filters=(seccomp.program(),),
        user_parent=host["user"],
        from_runtime=True,
        program=program,
        hooks_may_add=bool(wanted.hooks),
    )


def standard_mounts(root_device: str) -> tuple[ExpectedMount, ...]:
    """Those of every container, around the overlay on `root_device`, as `bundle` asks for them."""
    there = tuple(path for path in (*bundle.READ_ONLY, *bundle.MASKED) if os.access(path, os.F_OK))  # modules come and go
    return (ExpectedMount("/", frozenset(("nodev",)), ("overlay",), root_device, "/"), *_mounts_with(there))


@functools.lru_cache(maxsize=8)
def _mounts_with(there: tuple[str, ...]) -> tuple[ExpectedMount, ...]:
    """What is mounted in every container of a kernel that has these paths."""
    null = Path("/dev/null").stat().st_dev
    devices = f"{os.major(null)}:{os.minor(null)}"
    found: list[ExpectedMount] = []
    for mount in bundle.MOUNTS:
        found.append(ExpectedMount(mount["destination"], _restrictions(mount["options"]), (mount["type"],), root="/"))
    for name in _DEVICES:
        found.append(ExpectedMount(f"/dev/{name}", frozenset(), device=devices, root=f"/{name}"))
    for path in there:
        if path in bundle.READ_ONLY:
            found.append(ExpectedMount(path, frozenset(("ro",)), ("proc",), root=path.removeprefix("/proc")))
        elif Path(path).is_dir():
            found.append(ExpectedMount(path, frozenset(("ro",)), ("tmpfs",), or_root=_EMPTY_DIRECTORY))
        else:
            found.append(ExpectedMount(path, frozenset(), device=devices, root="/null"))
    return tuple(found)


def _expected_bind(bind: bundle.BindMount, staged: Mount | None) -> ExpectedMount:
    options = ("nosuid", "noexec") if bind.is_device else ("nosuid", "nodev", *(("ro",) if bind.read_only else ()))
    if staged is None:
        return ExpectedMount(bind.target, frozenset(options))
    return ExpectedMount(bind.target, frozenset(options), (staged.kind,), staged.device, staged.root)


def _restrictions(options: Iterable[str]) -> frozenset[str]:
    return frozenset(option for option in options if option in ("nosuid", "noexec", "nodev", "ro"))


def mask_of(capabilities: Iterable[str]) -> int:
    """A set of capabilities as the kernel prints it."""
    return sum(1 << CAPABILITY_BITS[name] for name in capabilities)


def _capabilities(mask: int) -> str:
    names = {bit: name for name, bit in CAPABILITY_BITS.items()}
    return ", ".join(names.get(bit, f"capability {bit}") for bit in range(64) if mask >> bit & 1)


def _ranges(ranges: IdRanges) -> str:
    return ", ".join(f"{inside} {outside} {count}" for inside, outside, count in ranges) or "empty"
