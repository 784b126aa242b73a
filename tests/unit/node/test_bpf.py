"""Programs of seccomp, asked by us."""

import copy
import platform
import struct

import pytest

from pilotlight.node import bpf, seccomp

NATIVE = bpf.ARCHITECTURES[platform.machine()]
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def program_of(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def test_the_profile_as_a_program_answers_as_it_says() -> None:
    program = bpf.instructions(seccomp.program())
    read, unshare, clone, unknown = (0, 272, 56, 1000) if platform.machine() == "x86_64" else (63, 97, 220, 1000)

    def ask(number: int, first: int = 0) -> int:
        return bpf.answer(program, {0: number, 4: NATIVE, 16: first}, set())

    assert ask(read) == ALLOW
    assert ask(unshare) == REFUSE | 1  # EPERM
    assert ask(unknown) == REFUSE | 38  # ENOSYS
    assert (ask(clone, 0x11), ask(clone, 0x10000000)) == (ALLOW, REFUSE | 1)
    assert bpf.answer(program, {0: read, 4: 0x40000003}, set()) == 0  # 32-bit calls kill


def test_a_program_is_known_in_another_form() -> None:
    other = copy.deepcopy(seccomp.profile())
    other["syscalls"] = [*reversed(other["syscalls"])]
    for rule in other["syscalls"]:
        rule["names"] = [*reversed(rule["names"])]
    rewritten = seccomp.compiled(other)
    assert bpf.same_answers(rewritten, seccomp.program(), NATIVE)
    padded = program_of((0x05, 0, 0, 0)) + rewritten  # a jump to the next instruction
    assert padded != rewritten and bpf.same_answers(padded, seccomp.program(), NATIVE)


def test_no_process_can_be_held_at_its_exit() -> None:
    program = bpf.instructions(seccomp.program())
    number = 101 if platform.machine() == "x86_64" else 117

    def ask(request: int, options: int = 0) -> int:
        return bpf.answer(program, {0: number, 4: NATIVE, 16: request, 40: options}, set())

    trace_me, attach, set_options, get_registers, seize = 0, 16, 0x4200, 0x4204, 0x4206
    assert {ask(request) for request in (trace_me, attach, set_options, get_registers, seize)} == {ALLOW}
    exits, others = 0x40, 0x1000BF  # PTRACE_O_TRACEEXIT; what debuggers set
    for request in (set_options, seize):
        assert (ask(request, others), ask(request, exits), ask(request, others | exits)) == (ALLOW, REFUSE | 1, REFUSE | 1)
    assert ask(get_registers, exits) == ALLOW  # an address
    assert ask(21, exits) == REFUSE | 38  # the older number of the same


@pytest.mark.parametrize("name", ["mount", "bpf", "unshare"])
def test_a_program_that_allows_one_call_more_is_another(name: str) -> None:
    wider = copy.deepcopy(seccomp.profile())
    for rule in wider["syscalls"]:
        rule["names"] = [entry for entry in rule["names"] if entry != name or rule["action"] == "SCMP_ACT_ALLOW"]
    wider["syscalls"].append({"names": [name], "action": "SCMP_ACT_ALLOW"})
    assert not bpf.same_answers(seccomp.compiled(wider), seccomp.program(), NATIVE)


def test_a_program_that_allows_one_argument_more_is_another() -> None:
    wider = copy.deepcopy(seccomp.profile())
    wider["syscalls"].append(
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0x40000, "op": "SCMP_CMP_EQ"}]}
    )
    assert not bpf.same_answers(seccomp.compiled(wider), seccomp.program(), NATIVE)


def test_what_is_not_understood_is_not_the_same() -> None:
    assert not bpf.same_answers(program_of((0xFF, 0, 0, 0)), seccomp.program(), NATIVE)
    assert not bpf.same_answers(program_of((0x20, 0, 0, 0)), seccomp.program(), NATIVE)  # runs over its end
    assert not bpf.same_answers(program_of((0x06, 0, 0, ALLOW)), seccomp.program(), NATIVE)
