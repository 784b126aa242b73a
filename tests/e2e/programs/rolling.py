"""An app that is deployed again and again while it works. What "version" it is stands in VERSION of whoever deploys it."""

import os
import signal
import threading
import time

import modal

app = modal.App("rolling", image=modal.Image.debian_slim())
version = modal.Secret.from_dict({"VERSION": os.environ.get("VERSION", "1")})


@app.function(secrets=[version], scaledown_window=60)
@modal.concurrent(max_inputs=10)
def which(pause_s: float = 0.0) -> str:
    time.sleep(pause_s)
    return os.environ["VERSION"]


@app.function(secrets=[version], scaledown_window=60)
def alone(pause_s: float = 0.0, of_version: str = "") -> str:
    """The pause is that of one version only, if so wished."""
    print("working", flush=True)
    if of_version in ("", os.environ["VERSION"]):
        time.sleep(pause_s)
    return os.environ["VERSION"]


@app.function(secrets=[version], scaledown_window=60)
@modal.concurrent(max_inputs=10)
@modal.wsgi_app(label="rolling-page")
def page():
    def answer(environ, start_response):
        time.sleep(0.02)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [os.environ["VERSION"].encode()]

    return answer


@app.function(schedule=modal.Period(days=1))
def daily() -> None:
    pass


@app.cls(scaledown_window=60)
class Stubborn:
    @modal.enter()
    def enter(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    @modal.method()
    def work(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            time.sleep(0.1)

    @modal.exit()
    def leave(self) -> None:
        time.sleep(30)


def keep_calling(threads: int = 4) -> None:
    """Call `which` until SIGUSR1 comes; prints the versions that answered, in order. An exception is the end."""
    stop, started = threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: stop.set())
    function = modal.Function.from_name("rolling", "which")
    answers: list[str] = []
    failures: list[str] = []

    def work() -> None:
        while not stop.is_set():
            try:
                answers.append(function.remote(0.02))
            except Exception as error:  # noqa: BLE001 - whatever it is, the test fails with its words
                failures.append(repr(error))
                return
            started.set()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    started.wait()
    print("calling", flush=True)
    for worker in workers:
        worker.join()
    print("versions:", *sorted(set(answers), key=answers.index))
    print("answers:", len(answers), "failures:", failures)


def occupy() -> None:
    """Have containers that work, that idle, and that would rather not end; returns when they do."""
    alone = modal.Function.from_name("rolling", "alone")
    busy, idle = (modal.Cls.from_name("rolling", "Stubborn")() for _ in range(2))
    busy.work.spawn(100.0)
    alone.spawn(100.0)
    idle.work.remote(0.0)
    until_working()


def until_working() -> None:
    """Return once a container of `alone` is there."""
    alone = modal.Function.from_name("rolling", "alone")
    deadline = time.monotonic() + 150
    while alone.get_current_stats().num_total_runners < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
