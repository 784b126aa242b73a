"""What a seccomp program answers to a system call: classic BPF, run by us.

Runtimes and versions of libseccomp write the same rules as different programs. `same_answers` asks both of two programs all calls
that there could be, with every argument that either of them tells apart. Sources: seccomp(2), Documentation/networking/filter.rst.
"""

import functools
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_OTHER_ARCHITECTURES = (0x40000003, 0x40000028, 0)  # 32-bit calls of the same machines, and nonsense
_NUMBERS = (*range(1024), *range(0x40000000, 0x40000000 + 600, 37), 0x7FFFFFFF, 0xFFFFFFFF)
_WHOLE = 0xFFFFFFFF
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_LOAD, _JUMP, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
_UPPER, _UPPER_HALVES = 4, (0, 1, _WHOLE)  # of an argument, where bytes are ordered as on all our machines: no rule has more in it
_MOST_WORDS = 3  # 32-bit halves of arguments that one call may depend on

Instruction = tuple[int, int, int, int]


class NotUnderstood(Exception):
    """A program has an instruction that filters of containers do not have."""


def instructions(program: bytes) -> list[Instruction]:
    """(operation, jump if true, jump if false, constant) of each."""
    return list(struct.iter_unpack("=HBBI", program))


def answer(program: list[Instruction], data: dict[int, int], looked_at: set[int]) -> int:
    """What the program returns; `data` holds 32-bit words by their offset, 0 where missing, and `looked_at` collects offsets."""
    position, value = 0, 0
    while True:
        operation, if_true, if_false, constant = program[position]
        position += 1
        if operation == _LOAD:
            if not _is_masked_out(program, position):
                looked_at.add(constant)
            value = data.get(constant, 0)
        elif operation == _RETURN:
            return constant
        elif operation == _JUMP:
            position += constant
        elif operation == _AND:
            value &= constant
        else:
            position += if_true if _holds(operation, value, constant) else if_false


def _is_masked_out(program: list[Instruction], position: int) -> bool:
    """Whether nothing is left of what was loaded before this instruction, as of the upper half of an argument of 32 bits."""
    operation, _, _, constant = program[position]
    return operation == _AND and constant == 0


def _holds(operation: int, value: int, constant: int) -> bool:
    if operation == _EQUAL:
        return value == constant
    if operation == _GREATER:
        return value > constant
    if operation == _AT_LEAST:
        return value >= constant
    if operation == _ANY_BIT:
        return bool(value & constant)
    raise NotUnderstood(f"operation {operation:#x}")


@functools.lru_cache(maxsize=16)
def same_answers(program: bytes, other: bytes, architecture: int) -> bool:
    """Whether two programs answer alike. Takes some tenths of a second, once for each pair."""
    try:
        both = (instructions(program), instructions(other))
        return all(_agree(both, number, kind) for kind in (architecture, *_OTHER_ARCHITECTURES) for number in _NUMBERS)
    except (NotUnderstood, IndexError, struct.error):
        return False


def _agree(both: tuple[list[Instruction], list[Instruction]], number: int, architecture: int) -> bool:
    """For one call, with all arguments that make a difference: the words that are looked at may depend on each other."""
    call = {_NUMBER: number, _ARCHITECTURE: architecture}
    words: set[int] = set()
    while True:
        looked_at: set[int] = set()
        for data in _arguments(call, words, both):
            if len({answer(program, data, looked_at) for program in both}) > 1:
                return False
        more = {offset for offset in looked_at if offset >= _FIRST_ARGUMENT} - words
        if not more:
            return True
        words |= more
        if len(words) > _MOST_WORDS:
            raise NotUnderstood(f"call {number} depends on {len(words)} words")


def _arguments(call: dict[int, int], words: set[int], both: Iterable[list[Instruction]]) -> Iterator[dict[int, int]]:
    telling = _telling_values(tuple(map(tuple, both))) if words else {}
    ordered = sorted(words)
    for chosen in itertools.product(*(_UPPER_HALVES if offset & _UPPER else telling.get(offset, (0,)) for offset in ordered)):
        yield {**call, **dict(zip(ordered, chosen, strict=True))}


@functools.lru_cache(maxsize=4)
def _telling_values(both: tuple[tuple[Instruction, ...], ...]) -> dict[int, tuple[int, ...]]:
    """For each argument (the offset of its lower half), values among which the programs could distinguish: the constants that it is
    compared with, their neighbours, and each bit.
    """
    usual = (0, 1, _WHOLE, *(1 << bit for bit in range(32)))
    found: dict[int, set[int]] = {}
    for program in both:
        for (operation, _, _, constant), offsets in zip(program, _loaded(program), strict=True):
            for offset in offsets if operation not in (_LOAD, _RETURN, _JUMP) else ():
                found.setdefault(offset, set(usual)).update((constant, constant + 1 & _WHOLE, constant - 1 & _WHOLE))
    return {offset: tuple(sorted(values)) for offset, values in found.items() if offset >= _FIRST_ARGUMENT}


def _loaded(program: Sequence[Instruction]) -> list[set[int]]:
    """For each instruction, the offsets of what may have been loaded last before it. All jumps go forward."""
    before: list[set[int]] = [set() for _ in program]
    for position, (operation, if_true, if_false, constant) in enumerate(program):
        after = {constant} if operation == _LOAD else before[position]
        steps = (constant,) if operation == _JUMP else () if operation == _RETURN else (0,)
        if operation not in (_LOAD, _RETURN, _JUMP, _AND):
            steps = (if_true, if_false)
        for step in steps:
            before[position + 1 + step] |= after
    return before
