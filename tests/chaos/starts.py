"""A stock client that starts containers, one after the other, and prints one JSON document a start: what it was, and milliseconds
from the call to its end.

python -m tests.chaos.starts --containers N [--calls N]
"""

import argparse
import asyncio
import json
import re
import time
from collections.abc import Iterator

import modal

from tests.chaos.starts_program import APP

PLAIN = "plain"
OTHERS = ("keeps", "alone", "fails", "dies", "hangs")  # in turn, one in so many starts
ONE_IN = 10
CONTAINERS_OF_A_DEATH = 3  # tried with the same input
AT_ONCE = 50
# The error of each kind that does not return: what it is and what it says. All others return.
ERRORS: dict[str, tuple[type[Exception], str]] = {
    "fails": (ValueError, r"\d+"),
    "dies": (modal.exception.RemoteError, rf"{CONTAINERS_OF_A_DEATH} containers died while they ran this input\..*"),
    "hangs": (modal.exception.FunctionTimeoutError, r".*timeout of 1s.*"),
}


def kinds(containers: int) -> Iterator[str]:
    """The function of each call, until they have made so many containers; first each kind once, for what is made once."""
    made = calls = 0
    while made < containers:
        calls += 1
        is_other = calls <= len(OTHERS) or calls % ONE_IN == 0
        kind = OTHERS[(calls if calls <= len(OTHERS) else calls // ONE_IN) % len(OTHERS)] if is_other else PLAIN
        made += CONTAINERS_OF_A_DEATH if kind == "dies" else 1
        yield kind


def start(kind: str, number: int) -> None:
    """Call a function whose container is one of its own; raises AssertionError where it does not end as it must."""
    function = modal.Function.from_name(APP, kind)
    try:
        found = function.remote(number)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        found = error
    assert ends_well(kind, number, found), f"{kind} of {number} ended with {found!r}"


def ends_well(kind: str, number: int, found: object) -> bool:
    """Whether a call has to end like this: by what it returns, or the exception that it raises."""
    if kind not in ERRORS:
        return found == number + 1
    error, words = ERRORS[kind]
    return isinstance(found, error) and re.fullmatch(words, str(found), re.DOTALL) is not None


async def busy(calls: int) -> None:
    """Fill what the platform remembers of calls: bounded, and full before anything is compared."""
    function, gate = modal.Function.from_name(APP, "busy"), asyncio.Semaphore(AT_ONCE)

    async def call(number: int) -> None:
        async with gate:
            assert await function.remote.aio(number) == number + 1

    await asyncio.gather(*(call(number) for number in range(calls)))


def main() -> None:
    """As the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, required=True)
    parser.add_argument("--calls", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(busy(options.calls))
    for number, kind in enumerate(kinds(options.containers)):
        began = time.perf_counter()
        start(kind, number)
        print(json.dumps([kind, round((time.perf_counter() - began) * 1e3, 1)]), flush=True)


if __name__ == "__main__":
    main()
