"""Classes: hooks, methods, parameters, options, and a pool of containers for each set of parameters."""

import asyncio
import os
import threading
import time

import modal

app = modal.App("classes")
DEADLINE_S = 100
MEETING = threading.Barrier(4)


@app.cls(scaledown_window=2)
class Plain:
    kind = "plain"

    @modal.enter()
    def first(self) -> None:
        self.events = ["enter"]

    @modal.enter()
    async def second(self) -> None:
        await asyncio.sleep(0)
        self.events.append("enter too")

    @modal.method()
    def events_so_far(self, more: str = "call") -> list[str]:
        self.events.append(more)
        return self.events

    @modal.method()
    async def in_async(self, number: int) -> str:
        return f"{self.kind} {number} {await self.helper()}"

    async def helper(self) -> str:
        return "helped"

    @modal.method()
    def generate(self, upto: int):
        yield from range(upto)

    @modal.exit()
    def leave(self) -> None:
        # Its last words go where another process can read them.
        modal.Dict.from_name(os.environ.get("LAST_WORDS", "last-words"), create_if_missing=True)["exit"] = self.events[0]


@app.cls()
class Parametrized:
    name: str = modal.parameter()
    size: int = modal.parameter(default=3)
    raw: bytes = modal.parameter(default=b"\x00\xff")
    loud: bool = modal.parameter(default=False)

    @modal.enter()
    def count_starts(self) -> None:
        self.calls = 0

    @modal.method()
    def describe(self) -> tuple[str, int, bytes, bool]:
        return self.name, self.size, self.raw, self.loud

    @modal.method()
    def container(self) -> tuple[str, int]:
        self.calls += 1
        return os.environ["MODAL_TASK_ID"], self.calls


@app.cls(max_containers=1)
class Optional:
    @modal.method()
    def environment(self) -> str | None:
        return os.environ.get("EXTRA")

    @modal.method()
    def overlap(self, number: int) -> int:
        """Returns if three others are there at the same time."""
        MEETING.wait(DEADLINE_S)
        return number

    @modal.method()
    def container(self) -> str:
        return os.environ["MODAL_TASK_ID"]


@app.cls(max_containers=1)
class Batched:
    @modal.batched(max_batch_size=2, wait_ms=100)
    def sizes(self, numbers: list[int]) -> list[tuple[int, int]]:
        return [(number, len(numbers)) for number in numbers]


@app.cls()
class FailsToEnter:
    @modal.enter()
    def fail(self) -> None:
        raise LookupError("no such model")

    @modal.method()
    def never(self) -> None: ...


def check_hooks_and_methods() -> None:
    plain = Plain()
    events = plain.events_so_far.remote()
    assert events[:3] == ["enter", "enter too", "call"] and set(events[3:]) <= {"call"}, events  # another check calls it, too
    assert plain.events_so_far.remote(more="again")[:2] == ["enter", "enter too"]
    assert plain.in_async.remote(4) == "plain 4 helped"
    assert list(plain.generate.remote_gen(3)) == [0, 1, 2]
    assert list(plain.in_async.map(range(2))) == ["plain 0 helped", "plain 1 helped"]
    assert plain.events_so_far.spawn("spawned").get()[-1] == "spawned"
    assert asyncio.run(plain.in_async.local(1)) == "plain 1 helped"


def check_exit_hook() -> None:
    words = modal.Dict.from_name("last-words", create_if_missing=True)
    words.clear()
    Plain().events_so_far.remote()
    deadline = time.monotonic() + DEADLINE_S  # the window in which a container stays idle, and its end
    while not words.contains("exit"):
        assert time.monotonic() < deadline, "the exit hook did not run"
        time.sleep(0.2)
    assert words["exit"] == "enter"


def check_parameters() -> None:
    assert Parametrized(name="ä").describe.remote() == ("ä", 3, b"\x00\xff", False)
    everything = Parametrized(name="b", size=-(2**40), raw=b"", loud=True)
    assert everything.describe.remote() == ("b", -(2**40), b"", True)
    assert everything.describe.local() == ("b", -(2**40), b"", True)
    try:
        Parametrized(name=3).describe.remote()  # type: ignore[arg-type]
    except (TypeError, ValueError, modal.exception.Error):
        pass
    else:
        raise AssertionError("a parameter of the wrong type was taken")


def check_a_pool_for_each_set_of_parameters() -> None:
    first, calls = Parametrized(name="one").container.remote()
    assert calls == 1
    assert Parametrized(name="one", size=3).container.remote() == (first, 2), "equal parameters share a container"
    other, calls = Parametrized(name="two").container.remote()
    assert calls == 1 and other != first


def check_options() -> None:
    assert Optional().environment.remote() is None
    with_secret = Optional.with_options(secrets=[modal.Secret.from_dict({"EXTRA": "salt"})])
    assert with_secret().environment.remote() == "salt"
    if hasattr(modal.Function, "with_options"):  # in older clients the options stick to the class that they were taken from
        assert with_secret().container.remote() != Optional().container.remote()


def check_with_concurrency() -> None:
    concurrent = Optional.with_concurrency(max_inputs=4)()
    concurrent.container.remote()
    assert list(concurrent.overlap.map(range(4))) == [0, 1, 2, 3]


def check_with_batching() -> None:
    assert Batched().sizes.remote(1) == (1, 1)
    assert all(size <= 2 for _, size in Batched().sizes.map(range(6)))
    outcomes = list(Batched.with_batching(max_batch_size=5, wait_ms=1500)().sizes.map(range(5)))
    assert outcomes == [(number, 5) for number in range(5)], outcomes


def check_enter_that_fails() -> None:
    try:
        FailsToEnter().never.remote()
    except LookupError as error:
        assert error.args == ("no such model",)
    else:
        raise AssertionError("it entered")
