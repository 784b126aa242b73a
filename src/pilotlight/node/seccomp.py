"""The system calls that a container may make.

Owns one invariant: what is not listed as allowed does not reach the kernel. `seccomp.json` holds, by purpose, the names that are
allowed whatever their arguments are, and the names that are refused for good; the few that depend on an argument are here. Refused
are the calls that change mounts or namespaces, load code into the kernel (modules, BPF), reach across containers (keyrings, perf),
set clocks or the machine's name, hold a process at its exit, and io_uring, userfaultfd and open_by_handle_at, which have a record
of kernel faults. A refused call fails with EPERM; one that no list knows fails with ENOSYS, so that C libraries fall back to an
older call. Source of the format: OCI runtime specification, config-linux.md, seccomp.
"""

import ctypes
import errno
import functools
import json
import os
import platform
from pathlib import Path
from typing import Any

from pilotlight.core import errors

PROFILE_PATH = Path(__file__).with_name("seccomp.json")

_ARCHITECTURES = {"x86_64": ["SCMP_ARCH_X86_64"], "aarch64": ["SCMP_ARCH_AARCH64"]}

# All CLONE_NEW* flags of clone(2). CLONE_NEWTIME shares its bit with the exit signal there, and needs clone3 or unshare.
_NAMESPACE_FLAGS = (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_WHOLE = 0xFFFFFFFF  # the mask of an argument of 32 bits
# Families of sockets: unix, IPv4, IPv6, netlink, and packets, which take a capability that nobody has. Any other is code of the
# kernel that no program here needs, often loaded because somebody asks; AF_VSOCK would pass by all of our network rules.
_SOCKET_CALLS = ("socket", "socketpair")
_FAMILIES = (1, 2, 10, 16, 17)
_TRIED_FAMILIES = (38, 40)  # AF_ALG and AF_VSOCK: programs try whether they are there. To all others the call itself is unknown.
# personality(2): plain Linux, 32-bit, the two uname emulations, and the question what it is.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# Requests of ptrace(2), as (mask, value): all but those that set options, and PTRACE_OLDSETOPTIONS (21), which nobody needs.
_REQUESTS = (
    *((~0xF, 0x00), (~0x3, 0x10), (~0x1, 0x16), (~0x7, 0x18), (~0x1F, 0x20)),  # 0…19, 22…63
    *((~0x0, 0x4201), (~0x1, 0x4202), (~0x1, 0x4204), (~0x0, 0x4207), (~0x7, 0x4208), (~0xF, 0x4210)),  # 0x4201…0x421f
)
_WITH_OPTIONS = (0x4200, 0x4206)  # PTRACE_SETOPTIONS, PTRACE_SEIZE: in the fourth argument
# Two processes that hold each other at their exit are there for ever: to be killed is what they have behind them.
_HELD_AT_EXIT = 0x40  # PTRACE_O_TRACEEXIT


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
        *(_first_argument(name, _WHOLE, family) for name in _SOCKET_CALLS for family in _FAMILIES),
        *(_first_argument(name, _WHOLE, family, refuse=errno.EAFNOSUPPORT) for name in _SOCKET_CALLS for family in _TRIED_FAMILIES),
        *(_first_argument("personality", _WHOLE, value) for value in _PERSONALITIES),
        *(_first_argument("ptrace", mask & _WHOLE, value) for mask, value in _REQUESTS),
        *(_first_argument("ptrace", _WHOLE, request, fourth=(_HELD_AT_EXIT, 0)) for request in _WITH_OPTIONS),
        *(
            _first_argument("ptrace", _WHOLE, request, fourth=(_HELD_AT_EXIT, _HELD_AT_EXIT), refuse=errno.EPERM)
            for request in _WITH_OPTIONS
        ),
    ]
    # clone3 is in no list, and so unknown: its flags lie in memory, where a filter can't look.
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": _ARCHITECTURES.get(platform.machine(), []),
        "syscalls": rules,
    }


def _first_argument(name: str, mask: int, equals: int, *, fourth: tuple[int, int] | None = None, refuse: int = 0) -> dict[str, Any]:
    """A rule for calls whose first argument, under the mask, has this value; and the fourth one, under a mask of its own."""
    arguments = ((0, mask, equals), (3, *fourth)) if fourth else ((0, mask, equals),)
    conditions = [
        {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"} for index, mask, value in arguments
    ]
    action = {"action": "SCMP_ACT_ERRNO", "errnoRet": refuse} if refuse else {"action": "SCMP_ACT_ALLOW"}
    return {"names": [name], **action, "args": conditions}


# ---- the same as a program for the kernel ----

_ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000}
_COMPARISONS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
_NO_NEW_PRIVILEGES = 3  # SCMP_FLTATR_CTL_NNP
_NO_SUCH_CALL = -1  # __NR_SCMP_ERROR
_LIBRARY = "libseccomp.so.2"


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp of seccomp.h."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64))


@functools.cache
def program() -> bytes:
    """The profile as classic BPF: what an OCI runtime makes of it, for whoever loads it without one (struct sock_filter, 8 bytes
    each). Made by libseccomp, which the runtime needs too. Raises PilotlightError where that is missing or does not understand.
    """
    return compiled(profile())


def compiled(document: dict[str, Any]) -> bytes:
    """The `linux.seccomp` object of an OCI bundle as classic BPF. Calls that this libseccomp does not know are left out."""
    library = _library()
    context = library.seccomp_init(ctypes.c_uint32(_action(document["defaultAction"], document.get("defaultErrnoRet", 0))))
    if not context:
        raise errors.PilotlightError("libseccomp made no filter: it is out of memory, or does not know the default action.")
    try:
        # The filter says nothing of privileges: whoever loads it sees to those.
        _understood(library.seccomp_attr_set(context, _NO_NEW_PRIVILEGES, 0), "no_new_privs")
        for architecture in document["architectures"]:
            token = library.seccomp_arch_resolve_name(architecture.removeprefix("SCMP_ARCH_").lower().encode())
            _understood(library.seccomp_arch_add(context, ctypes.c_uint32(token)), architecture, errno.EEXIST)
        default = (document["defaultAction"], document.get("defaultErrnoRet", 0))
        for rule in document["syscalls"]:
            if (rule["action"], rule.get("errnoRet", 0)) != default:
                _add(library, context, rule)
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _add(library: Any, context: ctypes.c_void_p, rule: dict[str, Any]) -> None:
    action = ctypes.c_uint32(_action(rule["action"], rule.get("errnoRet", 0)))
    arguments = rule.get("args", ())
    comparisons = (_Comparison * len(arguments))(
        *(_Comparison(one["index"], _COMPARISONS[one["op"]], one["value"], one.get("valueTwo", 0)) for one in arguments)
    )
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number != _NO_SUCH_CALL:
            _understood(library.seccomp_rule_add_array(context, action, number, len(arguments), comparisons), name)


def _exported(library: Any, context: ctypes.c_void_p) -> bytes:
    file = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _understood(library.seccomp_export_bpf(context, file), "the filter as a whole")
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


def _action(name: str, number: int) -> int:
    return _ACTIONS[name] | (number if name == "SCMP_ACT_ERRNO" else 0)


def _understood(result: int, what: str, *harmless: int) -> None:
    if result < 0 and -result not in harmless:
        raise errors.PilotlightError(f"libseccomp does not understand the filter of containers: {what}: {os.strerror(-result)}.")


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise errors.PilotlightError(f"{_LIBRARY} is missing. Install it: apt-get install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    for name in ("attr_set", "arch_add", "rule_add_array", "export_bpf", "release"):
        getattr(library, f"seccomp_{name}").argtypes = {
            "attr_set": (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32),
            "arch_add": (ctypes.c_void_p, ctypes.c_uint32),
            "rule_add_array": (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p),
            "export_bpf": (ctypes.c_void_p, ctypes.c_int),
            "release": (ctypes.c_void_p,),
        }[name]
    return library
