"""What is deployed on the platform under test: functions of all kinds. Results can be checked by whoever knows the arguments, and
those of one run of the code can be told from those of another: each has a token of its own."""

import hashlib
import time
import uuid
from pathlib import Path

import modal

APP = "chaos"
app = modal.App(APP, image=modal.Image.debian_slim())
attempts = modal.Dict.from_name("chaos-attempts", create_if_missing=True)
volume = modal.Volume.from_name("chaos-volume", create_if_missing=True)
FILES = Path("/files")
IDLE_S = 10  # until a container without work ends
PATIENT = modal.Retries(max_retries=4, initial_delay=0.2, backoff_coefficient=1.0)


@app.function(scaledown_window=IDLE_S, max_containers=2)
def square(number: int, pause_s: float = 0.0) -> int:
    time.sleep(pause_s)
    return number * number


@app.function(scaledown_window=IDLE_S, max_containers=2)
def digest(data: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(data).hexdigest(), data[::-1]


@app.function(scaledown_window=IDLE_S, max_containers=2)
def slowly(number: int, pause_s: float) -> tuple[int, str]:
    time.sleep(pause_s)
    return number, uuid.uuid4().hex


@app.function(scaledown_window=IDLE_S, max_containers=2)
def count(upto: int, pause_s: float):
    for number in range(upto):
        time.sleep(pause_s)
        yield number


@app.function(max_containers=1, single_use_containers=True)
def once(number: int) -> int:
    return number + 1


@app.function(scaledown_window=IDLE_S, max_containers=2, retries=PATIENT)
def stumbles(name: str, times: int) -> str:
    """Fails so many times, then returns its argument."""
    tried = attempts.get(name, 0)
    attempts[name] = tried + 1
    if tried < times:
        raise RuntimeError(f"attempt {tried} of {name} is to fail")
    return name


@app.function(scaledown_window=IDLE_S, max_containers=1)
@modal.batched(max_batch_size=8, wait_ms=50)
def doubled(numbers: list[int]) -> list[int]:
    return [2 * number for number in numbers]


@app.cls(scaledown_window=IDLE_S, max_containers=2)
class Adder:
    base: int = modal.parameter()

    @modal.enter()
    def enter(self) -> None:
        self.entered = self.base

    @modal.method()
    def add(self, number: int) -> int:
        return self.entered + number


@app.function(scaledown_window=IDLE_S, max_containers=1, volumes={str(FILES): volume})
def keep(name: str, text: str) -> str:
    """Write a file and commit it; what is returned then is a promise."""
    (FILES / name).write_text(text)
    volume.commit()
    return name


@app.function(scaledown_window=IDLE_S, max_containers=2)
@modal.concurrent(max_inputs=20)
@modal.wsgi_app()
def page():
    def answer(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["QUERY_STRING"].encode()]

    return answer
