"""Programs whose containers die, or are made to. They say how far they are, and check what they get.

python deaths.py oom | drain | spawn | get CALL_ID; `modal deploy deaths.py` before the last two
"""

import os
import sys
import threading
import time

import modal

app = modal.App("deaths")
LIMIT_MIB = 256
NOTES = "deaths"


def say(*words: object) -> None:
    """In one piece, so that nothing that others print comes in between."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


@app.function(memory=(64, LIMIT_MIB))
def hold(mib: int) -> int:
    return len(b"x" * (mib << 20)) >> 20


@app.function(max_containers=2)
def steadily(number: int) -> tuple[int, str]:
    time.sleep(0.05)
    return number, os.environ["MODAL_TASK_ID"]


@app.cls(max_containers=2)
class Patient:
    @modal.exit()
    def leave(self) -> None:
        modal.Dict.from_name(NOTES)[f"left {os.environ['MODAL_TASK_ID']}"] = True

    @modal.method()
    def work(self, number: int) -> int:
        """Takes a minute, but none once a container has left."""
        notes = modal.Dict.from_name(NOTES)
        has_one_left = any(str(key).startswith("left") for key in notes.keys())  # noqa: SIM118 - not a dict of this process
        notes[f"begun {number} {os.environ['MODAL_TASK_ID']}"] = True
        time.sleep(0.0 if has_one_left else 60.0)
        return number


@app.function(min_containers=1)
def warm() -> str:
    return os.environ["MODAL_TASK_ID"]


@app.function()
def noted(name: str) -> int:
    """Returns how often it was begun. The first time takes a minute."""
    notes = modal.Dict.from_name(NOTES, create_if_missing=True)
    times = notes[name] = notes.get(name, 0) + 1
    time.sleep(60.0 if times == 1 else 0.0)
    return notes[name]


@app.function(schedule=modal.Period(hours=5))
def regularly() -> None:
    pass


def run_oom() -> None:
    seen: list[tuple[int, str]] = []
    mapping = threading.Thread(target=lambda: seen.extend(steadily.map(range(150))))
    mapping.start()
    assert hold.remote(16) == 16
    try:
        hold.remote(2 * LIMIT_MIB)
    except Exception as error:  # noqa: BLE001 - whatever it is called, its words are what counts
        say("refused:", error)
    assert hold.remote(16) == 16
    mapping.join()
    assert [number for number, _ in seen] == list(range(150)), seen
    assert len({task_id for _, task_id in seen}) <= 2, "a container died that had done nothing wrong"


def run_drain() -> None:
    notes = modal.Dict.from_name(NOTES, create_if_missing=True)
    notes.clear()
    seen: list[int] = []
    mapping = threading.Thread(target=lambda: seen.extend(Patient().work.map(range(6))))
    mapping.start()
    while not any(str(key).startswith("begun") for key in notes.keys()):  # noqa: SIM118 - not a dict of this process
        time.sleep(0.05)
    say("it has begun")
    mapping.join()
    assert seen == list(range(6)), seen
    keys = [str(key) for key in notes.keys()]  # noqa: SIM118
    say("exit hooks run:", sum(key.startswith("left") for key in keys), "begun:", sum(key.startswith("begun") for key in keys))


def run_spawn() -> None:
    name = f"spawned {os.getpid()}"
    call = modal.Function.from_name("deaths", "noted").spawn(name)
    notes = modal.Dict.from_name(NOTES, create_if_missing=True)
    while not notes.get(name):
        time.sleep(0.05)
    say("call", call.object_id)


def run_get(call_id: str) -> None:
    say("begun", modal.FunctionCall.from_id(call_id).get(timeout=100), "times")


if __name__ == "__main__":
    if sys.argv[1] in ("spawn", "get"):
        globals()[f"run_{sys.argv[1]}"](*sys.argv[2:])
    else:
        with app.run():
            globals()[f"run_{sys.argv[1]}"]()
    say("all is well")
