"""What happens when code fails, takes too long, is cancelled, dies; and how much of it runs at once."""

import asyncio
import inspect
import os
import signal
import threading
import time
from typing import Any

import modal

app = modal.App("behaviour")
DEADLINE_S = 100  # for what takes a moment on a machine with nothing else to do
NOTES = f"notes-{os.getpid()}"  # a dict in which code in containers leaves word


def notes(name: str) -> modal.Dict:
    return modal.Dict.from_name(name, create_if_missing=True)


def wait_for(name: str, key: str) -> object:
    deadline = time.monotonic() + DEADLINE_S
    while (value := notes(name).get(key)) is None:
        assert time.monotonic() < deadline, f"nobody noted {key!r}"
        time.sleep(0.1)
    return value


def attempt(name: str, key: str) -> int:
    """Note one more attempt, and when it was; returns its number."""
    kept = notes(name)
    times = kept.get(key) or []
    kept[key] = [*times, time.time()]
    return len(times) + 1


# ---- retries ----


@app.function(retries=modal.Retries(max_retries=2, initial_delay=1.0, backoff_coefficient=2.0))
def flaky(name: str, key: str, good_at: int) -> int:
    number = attempt(name, key)
    if number < good_at:
        raise ValueError(f"attempt {number}")
    return number


def check_retries_driven_by_the_client() -> None:
    assert flaky.remote(NOTES, "remote", 3) == 3
    began = notes(NOTES)["remote"]
    assert began[1] - began[0] >= 0.9 and began[2] - began[1] >= 1.8, began
    try:
        flaky.remote(NOTES, "remote in vain", 9)
    except ValueError as error:
        assert error.args == ("attempt 3",)
    else:
        raise AssertionError("it succeeded")
    assert len(notes(NOTES)["remote in vain"]) == 3
    keys = [f"map {number}" for number in range(4)]
    assert list(flaky.starmap([(NOTES, key, 2) for key in keys])) == [2] * 4
    assert [len(notes(NOTES)[key]) for key in keys] == [2] * 4


def check_retries_driven_by_the_server() -> None:
    calls = [flaky.spawn(NOTES, "spawn", 3), flaky.spawn(NOTES, "spawn in vain", 9)]
    assert calls[0].get() == 3
    began = notes(NOTES)["spawn"]
    assert len(began) == 3 and began[1] - began[0] >= 0.9 and began[2] - began[1] >= 1.8, began
    try:
        calls[1].get()
    except ValueError as error:
        assert error.args == ("attempt 3",)
    else:
        raise AssertionError("it succeeded")
    assert len(notes(NOTES)["spawn in vain"]) == 3


# ---- time-outs ----


# In older clients the time-out is that of the start too, which must not be too short for a busy machine.
HAS_STARTUP_TIMEOUT = "startup_timeout" in inspect.signature(app.function).parameters
SHORT: dict[str, Any] = {"timeout": 2, "startup_timeout": 100} if HAS_STARTUP_TIMEOUT else {"timeout": 8}


@app.function(**SHORT)
def stubborn(name: str, key: str) -> None:
    """Can be ended by force only."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    notes(name)[key] = os.environ["MODAL_TASK_ID"]
    while True:
        try:
            time.sleep(1000)
        except BaseException:  # noqa: BLE001 - that is the point of it
            print("I will not be stopped")


@app.function(**SHORT)
async def sleepy(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"


def check_timeouts_kill() -> None:
    began = time.monotonic()
    try:
        stubborn.remote(NOTES, "stubborn")
    except modal.exception.FunctionTimeoutError as error:
        assert f"{SHORT['timeout']}s" in str(error)
    else:
        raise AssertionError("it ended by itself")
    assert time.monotonic() - began < DEADLINE_S
    try:
        sleepy.remote(60)
    except modal.exception.FunctionTimeoutError:
        pass
    else:
        raise AssertionError("it was not ended")
    assert sleepy.remote(0) == "rested", "another container goes on"


@app.cls(**({"startup_timeout": 2} if HAS_STARTUP_TIMEOUT else {"timeout": 2}))
class SlowToStart:
    @modal.enter()
    def start(self) -> None:
        time.sleep(100)

    @modal.method()
    def never(self) -> None: ...


def check_startup_timeout() -> None:
    try:
        SlowToStart().never.remote()
    except modal.exception.Error as error:
        assert "startup_timeout" in str(error) or "start" in str(error), error
    else:
        raise AssertionError("it started")


# ---- cancellation ----


@app.function()
def busy(name: str, key: str) -> None:
    notes(name)[key + " began"] = True
    try:
        time.sleep(100)
    except BaseException as error:
        notes(name)[key + " ended by"] = type(error).__name__
        raise


@app.function()
@modal.concurrent(max_inputs=3)
async def busy_together(name: str, key: str, seconds: float) -> str:
    notes(name)[key + " began"] = True
    try:
        await asyncio.sleep(seconds)
    except BaseException as error:
        await notes(name).put.aio(key + " ended by", type(error).__name__)
        raise
    return f"{key} done"


def _is_cancelled(call: modal.FunctionCall) -> None:
    try:
        call.get(timeout=DEADLINE_S)
    except (modal.exception.InputCancellation, modal.exception.RemoteError) as error:
        assert str(error)
    else:
        raise AssertionError("a cancelled call gave a result")


def check_cancellation_reaches_running_code() -> None:
    call = busy.spawn(NOTES, "sync")
    wait_for(NOTES, "sync began")
    began = time.monotonic()
    call.cancel()
    assert wait_for(NOTES, "sync ended by") in ("InputCancellation", "KeyboardInterrupt")
    _is_cancelled(call)
    assert time.monotonic() - began < 60, "it had slept its fill"


def check_cancellation_of_one_of_several() -> None:
    calls = {key: busy_together.spawn(NOTES, key, 8 if key == "kept" else 100) for key in ("kept", "dropped")}
    for key in calls:
        wait_for(NOTES, f"{key} began")
    calls["dropped"].cancel()
    assert wait_for(NOTES, "dropped ended by") == "CancelledError"
    _is_cancelled(calls["dropped"])
    assert calls["kept"].get() == "kept done"
    assert notes(NOTES).get("kept ended by") is None


def check_cancellation_with_the_container() -> None:
    call = stubborn_forever.spawn(NOTES, "terminated")
    wait_for(NOTES, "terminated")
    call.cancel(terminate_containers=True)
    _is_cancelled(call)
    assert stubborn_forever.remote(NOTES, "other", forever=False) != notes(NOTES)["terminated"]


@app.function()
def stubborn_forever(name: str, key: str, forever: bool = True) -> str:
    notes(name)[key] = os.environ["MODAL_TASK_ID"]
    while forever:
        try:
            time.sleep(1000)
        except BaseException:  # noqa: BLE001 - that is the point of it
            print("I will not be stopped")
    return os.environ["MODAL_TASK_ID"]


def check_cancellation_of_code_that_resists() -> None:
    call = stubborn_forever.spawn(NOTES, "resisting")
    wait_for(NOTES, "resisting")
    call.cancel()
    _is_cancelled(call)
    assert stubborn_forever.remote(NOTES, "after", forever=False) != notes(NOTES)["resisting"], "its container was killed"


@app.function(max_containers=1)
@modal.concurrent(max_inputs=2)
def busy_threads(name: str, key: str, seconds: float) -> str:
    attempt(name, key)
    time.sleep(seconds)
    return f"{key} done"


def check_cancellation_of_one_of_several_threads() -> None:
    """It interrupts the whole container; the other input is begun anew, in another."""
    calls = {key: busy_threads.spawn(NOTES, key, seconds) for key, seconds in (("sibling", 5.0), ("victim", 100.0))}
    for key in calls:
        wait_for(NOTES, key)
    calls["victim"].cancel()
    _is_cancelled(calls["victim"])
    assert calls["sibling"].get() == "sibling done"


# ---- death ----


@app.function(retries=modal.Retries(max_retries=1, initial_delay=0.0))
def unlucky(name: str, key: str) -> int:
    """Its first container dies, its second attempt fails."""
    number = attempt(name, key)
    if number == 1:
        os._exit(1)
    if number == 2:
        raise ValueError("the one failure that its retries allow")
    return number


def check_deaths_are_not_counted_as_retries() -> None:
    assert unlucky.remote(NOTES, "unlucky remote") == 3
    assert unlucky.spawn(NOTES, "unlucky spawn").get() == 3


@app.function(memory=(128, 256))
def greedy() -> int:
    return len(bytearray(1024 * 1024 * 1024))


def check_out_of_memory() -> None:
    try:
        greedy.remote()
    except modal.exception.Error as error:
        assert "memory" in str(error), error
    else:
        raise AssertionError("it got more memory than its limit")


@app.function(retries=0)
def mortal(name: str, key: str, deaths: int, how: str) -> int:
    number = attempt(name, key)
    print(f"life {number} of {key}", flush=True)
    if number <= deaths:
        if how == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def check_a_death_gives_inputs_back() -> None:
    assert mortal.remote(NOTES, "exits once", 1, "exit") == 2
    assert mortal.spawn(NOTES, "killed twice", 2, "kill").get() == 3


def check_three_deaths_are_enough() -> None:
    for how, said in (("exit", "exit code 3"), ("kill", "signal 9")):
        try:
            mortal.remote(NOTES, f"hopeless by {how}", 99, how)
        except modal.exception.Error as error:
            assert said in str(error) and f"life 3 of hopeless by {how}" in str(error), error
        else:
            raise AssertionError("it survived")
        assert len(notes(NOTES)[f"hopeless by {how}"]) == 3


@app.function(secrets=[modal.Secret.from_dict({"PYTHONHOME": "/nowhere"})])
def unstartable() -> None: ...


def check_a_container_that_cannot_start() -> None:
    began = time.monotonic()
    try:
        unstartable.remote()
    except modal.exception.Error as error:
        assert "unstartable" in str(error) and "could not start" in str(error), error
        assert "No module named 'encodings'" in str(error), "the last lines of its output are told"
    else:
        raise AssertionError("it started")
    assert time.monotonic() - began > 2, "its starts were not spaced"


# ---- how much at once ----


MEETING = threading.Barrier(4)
ASYNC_MEETING = asyncio.Barrier(20)


@app.function(max_containers=1)
@modal.concurrent(max_inputs=4)
def together_sync(meet: bool) -> str:
    """To meet is to be there while three others are."""
    if meet:
        MEETING.wait(DEADLINE_S)
    return os.environ["MODAL_TASK_ID"]


@app.function(max_containers=1)
@modal.concurrent(max_inputs=20)
async def together_async(meet: bool) -> str:
    """To meet is to be there while 19 others are."""
    if meet:
        async with asyncio.timeout(DEADLINE_S):
            await ASYNC_MEETING.wait()
    return os.environ["MODAL_TASK_ID"]


def check_concurrent_inputs_overlap() -> None:
    for function, count in ((together_sync, 4), (together_async, 20)):
        function.remote(False)
        assert len(set(function.map([True] * count))) == 1
        assert len(list(function.map([False] * 50))) == 50


@app.function(max_containers=1)
@modal.batched(max_batch_size=4, wait_ms=1500)
def batches(numbers: list[int]) -> list[tuple[int, int]]:
    return [(number, len(numbers)) for number in numbers]


@app.function()
@modal.batched(max_batch_size=3, wait_ms=50)
async def failing_batches(numbers: list[int]) -> list[int]:
    raise ValueError(f"a batch of {len(numbers)}")


def check_batches() -> None:
    assert list(batches.map(range(8))) == [(number, 4) for number in range(8)], "full batches go at once"
    began = time.monotonic()
    assert batches.remote(9) == (9, 1), "one alone waits for company, and then goes"
    assert time.monotonic() - began >= 1.4
    outcomes = list(failing_batches.map(range(3), return_exceptions=True))
    inner = [getattr(outcome, "exc", outcome) for outcome in outcomes]
    assert all(isinstance(error, ValueError) and "a batch of" in str(error) for error in inner), outcomes


@app.function(max_containers=2)
def slow_identity(name: str, number: int) -> tuple[int, str]:
    """Returns once two containers are at it, and a moment later, for a third to come if it may."""
    task_id, deadline = os.environ["MODAL_TASK_ID"], time.monotonic() + DEADLINE_S
    notes(name)[task_id] = True
    while notes(name).len() < 2:
        assert time.monotonic() < deadline, "there is no second container"
        time.sleep(0.1)
    time.sleep(0.3)
    return number, task_id


def check_max_containers() -> None:
    outcomes = list(slow_identity.starmap((f"{NOTES}-of-two", number) for number in range(12)))
    assert [number for number, _ in outcomes] == list(range(12))
    assert len({task for _, task in outcomes}) == 2, outcomes


@app.function(
    **(
        {"single_use_containers": True}
        if "single_use_containers" in inspect.signature(app.function).parameters
        else {"max_inputs": 1}
    )
)
def only_once() -> str:
    return os.environ["MODAL_TASK_ID"]


def check_single_use() -> None:
    assert len({only_once.remote() for _ in range(3)}) == 3
