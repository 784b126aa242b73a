"""The system calls that a container may make.

Owns one invariant: what is not listed as allowed does not reach the kernel. `seccomp.json` holds, by purpose, the names that are
allowed whatever their arguments are, and the names that are refused for good; the few that depend on an argument are here. Refused
are the calls that change mounts or namespaces, load code into the kernel (modules, BPF), reach across containers (keyrings, perf),
set clocks or the machine's name, and io_uring, userfaultfd and open_by_handle_at, which have a record of kernel faults. A refused
call fails with EPERM; one that no list knows fails with ENOSYS, so that C libraries fall back to an older call. Source of the
format: OCI runtime specification, config-linux.md, seccomp.
"""

import errno
import functools
import json
import platform
from pathlib import Path
from typing import Any

PROFILE_PATH = Path(__file__).with_name("seccomp.json")

_ARCHITECTURES = {"x86_64": ["SCMP_ARCH_X86_64"], "aarch64": ["SCMP_ARCH_AARCH64"]}

# All CLONE_NEW* flags of clone(2). CLONE_NEWTIME shares its bit with the exit signal there, and needs clone3 or unshare.
_NAMESPACE_FLAGS = (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_WHOLE = 0xFFFFFFFF  # the mask of an argument of 32 bits
_AF_VSOCK = 40  # speaks to the hypervisor, past all of our network rules
# personality(2): plain Linux, 32-bit, the two uname emulations, and the question what it is.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


@functools.cache
def profile() -> dict[str, Any]:
    """The `linux.seccomp` object of an OCI bundle."""
    lists: dict[str, dict[str, list[str]]] = json.loads(PROFILE_PATH.read_text())
    allowed, refused = (sorted(name for group in lists[kind].values() for name in group) for kind in ("allowed", "refused"))
    rules: list[dict[str, Any]] = [
        {"names": allowed, "action": "SCMP_ACT_ALLOW"},
        {"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
        _first_argument("clone", sum(_NAMESPACE_FLAGS), 0),
        *(_first_argument("clone", flag, flag, refuse=errno.EPERM) for flag in _NAMESPACE_FLAGS),
        _first_argument("socket", _AF_VSOCK, None),
        _first_argument("socket", _WHOLE, _AF_VSOCK, refuse=errno.EAFNOSUPPORT),
        *(_first_argument("personality", _WHOLE, value) for value in _PERSONALITIES),
    ]
    # clone3 is in no list, and so unknown: its flags lie in memory, where a filter can't look.
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": _ARCHITECTURES.get(platform.machine(), []),
        "syscalls": rules,
    }


def _first_argument(name: str, mask: int, equals: int | None, *, refuse: int = 0) -> dict[str, Any]:
    """A rule for calls whose first argument, under the mask, has this value; with None, for those that are anything but `mask`."""
    if equals is None:
        condition = {"index": 0, "value": mask, "op": "SCMP_CMP_NE"}
    else:
        condition = {"index": 0, "value": mask, "valueTwo": equals, "op": "SCMP_CMP_MASKED_EQ"}
    action = {"action": "SCMP_ACT_ERRNO", "errnoRet": refuse} if refuse else {"action": "SCMP_ACT_ALLOW"}
    return {"names": [name], **action, "args": [condition]}
