"""A program that is under way while processes of the platform are killed. It says how far it is, and checks what it gets.

python restarts.py map | remote | generator | blob | spawned | output
"""

import contextlib
import os
import sys
import time

import modal

app = modal.App("restarts")
NOTES = f"restarts-{os.getpid()}"
MIB = 1024 * 1024


def say(*words: object) -> None:
    """In one piece, so that nothing that others print comes in between."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


@app.function(max_containers=2)
def slowly(number: int, pause_s: float = 0.05) -> int:
    time.sleep(pause_s)
    return number


@app.function()
def noted(name: str, pause_s: float) -> int:
    """Returns how often it was begun."""
    notes = modal.Dict.from_name(name)
    notes["begun"] = notes.get("begun", 0) + 1
    time.sleep(pause_s)
    return notes["begun"]


@app.function()
def count(upto: int):
    for number in range(upto):
        time.sleep(0.02)
        yield number


@app.function()
def reverse(data: bytes) -> bytes:
    return data[::-1]


@app.function()
def talk(lines: int) -> None:
    for number in range(lines):
        say(f"line {number:03} of the container")
        time.sleep(0.02)


def run_output() -> None:
    talk.remote(200)


def run_map() -> None:
    seen = []
    for value in slowly.map(range(400), order_outputs=False):
        seen.append(value)
        if len(seen) % 50 == 0:
            say("results so far:", len(seen))
    assert sorted(seen) == list(range(400)), (len(seen), len(set(seen)))


def run_remote() -> None:
    notes = modal.Dict.from_name(NOTES, create_if_missing=True).hydrate()  # which looks for it, and may be quicker than we are
    call = noted.spawn(NOTES, 4.0)
    while not notes.get("begun"):
        time.sleep(0.05)
    say("it has begun")
    say("begun", call.get(), "times")


def run_generator() -> None:
    seen = []
    for value in count.remote_gen(150):
        seen.append(value)
        if value == 20:
            say("yielded 20")
    assert seen == list(range(150)), seen


def run_blob() -> None:
    for number in range(6):
        data = os.urandom(15 * MIB)
        assert reverse.remote(data) == data[::-1]
        say("transferred", number)


def run_spawned() -> None:
    calls = [slowly.spawn(number, 0.2) for number in range(40)]
    say("all are spawned")
    values = [call.get() for call in calls]
    assert values == list(range(40)), values


if __name__ == "__main__":
    with modal.enable_output() if sys.argv[1] == "output" else contextlib.nullcontext(), app.run():
        globals()[f"run_{sys.argv[1]}"]()
    say("all is well")
