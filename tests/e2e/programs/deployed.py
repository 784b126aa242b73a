"""A deployed app that other programs look up: what it says is in VERSION of whoever deploys it."""

import os
import time

import modal

app = modal.App("deployed", image=modal.Image.debian_slim())
version = modal.Secret.from_dict({"VERSION": os.environ.get("VERSION", "1")})


@app.function(secrets=[version], scaledown_window=60)
def which(pause_s: float = 0.0, *, words: str = "version") -> str:
    print("working", flush=True)
    time.sleep(pause_s)
    return f"{words} {os.environ['VERSION']}"


@app.function()
def numbers(upto: int):
    yield from range(upto)


@app.cls()
class Shelf:
    label: str = modal.parameter(default="none")

    @modal.enter()
    def start(self) -> None:
        self.things = [self.label]

    @modal.method()
    def put(self, thing: str) -> list[str]:
        self.things.append(thing)
        return self.things
