"""What a template may do beyond a container: no more than its children need to set themselves up.

Owns one invariant: a template can make mount, pid, uts, ipc, cgroup and user namespaces, but never a network one, so whatever it
does it is nowhere the owner of a network; and it can enter none but network namespaces that belong to its own user namespace. Its
filter lets through all that a container's does, since its children keep it below their own. Pure.
"""

import functools
from typing import Any

from pilotlight.node import seccomp
from pilotlight.node.bundle import DEFAULT_CAPABILITIES

CAPABILITIES = (*DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN")

_MOUNTS = ("mount", "move_mount", "pivot_root", "umount2", "sethostname")
_NEW_MOUNTS, _NEW_GROUPS, _NEW_NAME, _NEW_IPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
_NEW_USERS, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_UNSHARED = (_NEW_PROCESSES | _NEW_MOUNTS | _NEW_NAME | _NEW_IPC, _NEW_GROUPS, _NEW_USERS)
_ENTERED = (_NEW_NETWORK,)
_WHOLE = 0xFFFFFFFF


def profile() -> dict[str, Any]:
    """The `linux.seccomp` object of a template's bundle."""
    document = seccomp.profile()
    wanted = {*_MOUNTS, "unshare", "setns"}
    rules = [{**rule, "names": [name for name in rule["names"] if name not in wanted]} for rule in document["syscalls"]]
    rules += [
        {"names": list(_MOUNTS), "action": "SCMP_ACT_ALLOW"},
        *(_argument("unshare", 0, flags) for flags in _UNSHARED),
        *(_argument("setns", 1, kind) for kind in _ENTERED),
    ]
    return {**document, "syscalls": rules}


@functools.cache
def program() -> bytes:
    """The same as classic BPF, by which the filter of a forked container is known (struct sock_filter, 8 bytes each)."""
    return seccomp.compiled(profile())


def _argument(name: str, index: int, value: int) -> dict[str, Any]:
    condition = {"index": index, "value": _WHOLE, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]}
