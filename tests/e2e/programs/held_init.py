"""A function that holds the first process of its container still, by ptrace, and leaves somebody behind who goes on holding it."""

import ctypes
import os
import sys
import time

import modal

# An interpreter reads it at its start: such a container is not forked. The init of one that is lets nobody trace it.
never_forked = modal.Secret.from_dict({"LANGUAGE": "en"})
app = modal.App("held-init", image=modal.Image.debian_slim(), secrets=[never_forked])
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_O_TRACEEXIT, PR_SET_NAME = 0x4206, 0x4207, 0x40, 15


def hold(options: int, stop: bool) -> str:
    """What came of it; the holder lives on after its parents."""
    libc = ctypes.CDLL(None, use_errno=True)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if libc.ptrace(PTRACE_SEIZE, 1, 0, options):
            os.write(writing, os.strerror(ctypes.get_errno()).encode())
            os._exit(1)
        if stop:
            libc.ptrace(PTRACE_INTERRUPT, 1, 0, 0)
        os.write(writing, b"held")
        for descriptor in range(3):
            os.close(descriptor)
        while True:
            time.sleep(60.0)
    os.close(writing)
    return os.read(reading, 100).decode()


@app.function(timeout=3)
def until_its_limit(options: int, stop: bool):
    print(hold(options, stop), flush=True)
    time.sleep(600.0)


@app.function()
def until_it_is_stopped(options: int, stop: bool):
    print(hold(options, stop), flush=True)
    time.sleep(600.0)


@app.function(single_use_containers=True)
def and_returns(options: int, stop: bool) -> str:
    return hold(options, stop)


@app.function()
def and_ends(options: int, stop: bool) -> str:
    hold(options, stop)
    os._exit(0)


WAYS = {"stopped": (0, True), "held at its exit": (PTRACE_O_TRACEEXIT, False), "both": (PTRACE_O_TRACEEXIT, True)}


@app.local_entrypoint()
def main(name: str):
    for way in WAYS.values():
        try:
            print("said", app.registered_functions[name].remote(*way))
        except Exception as error:  # noqa: BLE001 - any end is told
            print("ended with", type(error).__name__, error)


if __name__ == "__main__":
    sys.exit("modal run held_init.py --name …")
