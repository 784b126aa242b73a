"""What the TypeScript programs of the tests call: deployed by the Python client, as anybody would."""

import modal

app = modal.App("typescript-tests", image=modal.Image.debian_slim())


@app.function()
def echo(*arguments, **named):
    return [list(arguments), named]


@app.function()
def shown(value: object) -> list[str]:
    """How Python sees a value."""
    return [type(value).__name__, repr(value)]


@app.function()
def made(expression: str) -> object:
    """What becomes of a Python value on its way to the caller."""
    import datetime
    import decimal
    import math

    return eval(expression, {"datetime": datetime, "decimal": decimal, "math": math})


@app.function()
def fail(message: str) -> None:
    raise ValueError(message)


@app.function()
def wait_forever() -> None:
    import time

    print("waiting", flush=True)
    time.sleep(600)


@app.function(timeout=1, startup_timeout=60)
def too_slow() -> None:
    import time

    time.sleep(600)


@app.function()
def add(left: int, right: int = 1) -> int:
    return left + right


@app.function()
def pause(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return seconds


@app.function()
@modal.concurrent(max_inputs=100)
async def double(number: int) -> int:
    return 2 * number


@app.function()
def size_of(data: bytes) -> int:
    return len(data)


@app.function()
def zeros(size: int) -> bytes:
    return bytes(size)


@app.function(routing_region="us-east")
def routed() -> str:
    return "routed"


@app.function()
def speak(lines: int, word: str) -> int:
    import sys

    for number in range(lines):
        print(f"{word} {number}")
    print(f"{word} to stderr", file=sys.stderr)
    return lines


@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.0, backoff_coefficient=1.0))
def third_time(queue_name: str) -> int:
    attempts = modal.Queue.from_name(queue_name)
    attempts.put("tried")
    if (tries := attempts.len()) < 3:
        raise RuntimeError(f"try {tries}")
    return tries


@app.function()
def variable(name: str) -> str | None:
    import os

    return os.environ.get(name)


@app.function()
@modal.batched(max_batch_size=4, wait_ms=200)
def in_batches(numbers: list[int]) -> list[int]:
    return [len(numbers)] * len(numbers)


@app.function()
def give_back_twice(number: int):
    yield number
    yield number


@app.cls()
class Plain:
    @modal.method()
    def hello(self, name: str) -> str:
        return f"hello {name}"


@app.cls()
class Shelf:
    label: str = modal.parameter()
    size: int = modal.parameter(default=3)
    is_open: bool = modal.parameter(default=True)
    stamp: bytes = modal.parameter(default=b"none")

    @modal.enter()
    def start(self) -> None:
        self.things = 0

    @modal.method()
    def describe(self) -> list[object]:
        print(f"this is {self.label}", flush=True)
        return [self.label, self.size, self.is_open, self.stamp]

    @modal.method()
    def put(self, count: int) -> int:
        self.things += count
        return self.things

    @modal.method()
    def variable(self, name: str) -> str | None:
        import os

        return os.environ.get(name)


@app.cls()
class Meeting:
    @modal.method()
    async def meet(self, queue_name: str, others: int) -> int:
        """Returns once so many are here at the same time."""
        here = modal.Queue.from_name(queue_name)
        await here.put.aio("here")
        while await here.len.aio() < others:
            await here.get.aio(partition="never", timeout=0.05, block=False)
        return others
