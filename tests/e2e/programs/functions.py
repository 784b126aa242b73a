"""Functions called in every way that the client offers."""

import asyncio
import os
import subprocess
import sys
import time
import traceback

import modal

app = modal.App("functions")
MIB = 1024 * 1024


@app.function(max_containers=2)
def plain(number: int, factor: int = 2, *, fail_at: int | None = None, pause_s: float = 0.0) -> int:
    time.sleep(pause_s)
    if number == fail_at:
        raise KeyError(f"number {number}")
    return number * factor


@app.function()
async def coroutine(number: int) -> tuple[int, str]:
    await asyncio.sleep(0)
    return number + 1, "🔥"


@app.function()
def count(upto: int, fail_at: int | None = None):
    for number in range(upto):
        if number == fail_at:
            raise ValueError(f"stuck at {number}")
        yield number, b"x" * number


@app.function()
async def count_async(upto: int, fail_at: int | None = None):
    for number in range(upto):
        if number == fail_at:
            raise ValueError(f"stuck at {number}")
        await asyncio.sleep(0)
        yield number


class Odd(Exception):
    """An exception of the program's own."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number = number


def deep_inside(number: int) -> None:
    raise Odd(number, "it is odd")


@app.function()
def oddities(number: int) -> None:
    deep_inside(number)


@app.function()
def blob(size: int, data: bytes = b"") -> tuple[int, bytes]:
    return len(data), bytes([7]) * size


@app.function(timeout=100)
def nested(depth: int) -> list[object]:
    """Calls others from within a container: by map, spawn, generator, with large data both ways."""
    if depth == 0:
        return [os.environ["MODAL_TASK_ID"]]
    received, sent = blob.remote(3 * MIB, b"y" * (4 * MIB))
    spawned = plain.spawn(20)
    return [
        list(plain.map(range(5))),
        spawned.get(),
        [number for number, _ in count.remote_gen(3)],
        received,
        len(sent),
        nested.remote(depth - 1)[0],
    ]


@app.function()
def keeper(mode: str, name: str) -> object:
    """Uses a dict and a queue from within a container."""
    kept = modal.Dict.from_name(name, create_if_missing=True)
    queue = modal.Queue.from_name(name, create_if_missing=True)
    if mode == "write":
        kept["from container"] = {"a": [1, 2]}
        queue.put_many(["c", "d"])
        return kept.put("first", "second time", skip_if_exists=True)
    return kept["from client"], queue.get_many(2)


@app.function()
def note(number: int, name: str) -> None:
    modal.Queue.from_name(name).put(number)


@app.function(secrets=[modal.Secret.from_dict({"PASSWORD": "swordfish", "EMPTY": ""})])
def secretive() -> tuple[str, str]:
    return os.environ["PASSWORD"], os.environ["EMPTY"]


@app.function(serialized=True, name="pickled")
def pickled(number: int) -> str:
    import platform

    return f"{number} on {platform.system()}"


@app.function()
def who_am_i() -> tuple[str | None, str | None, bool]:
    return modal.current_input_id(), modal.current_function_call_id(), modal.is_local()


def check_remote_and_local() -> None:
    assert plain.remote(21) == 42
    assert plain.remote(3, factor=5) == 15
    assert plain.remote(number=4, factor=0) == 0
    assert plain.local(6) == 12
    assert coroutine.remote(1) == (2, "🔥")
    assert asyncio.run(coroutine.local(1)) == (2, "🔥")


def check_map() -> None:
    assert list(plain.map(range(500))) == [2 * number for number in range(500)]
    assert sorted(plain.map(range(500), order_outputs=False)) == [2 * number for number in range(500)]
    assert list(plain.map([1, 2, 3], [10, 20, 30])) == [10, 40, 90]
    assert list(plain.map(range(3), kwargs={"factor": 7})) == [0, 7, 14]
    assert list(plain.map([])) == []
    assert list(plain.starmap([(1, 2), (3, 4)])) == [2, 12]
    assert list(coroutine.map(range(3))) == [(1, "🔥"), (2, "🔥"), (3, "🔥")]
    plain.for_each(range(5))


def check_map_with_exceptions() -> None:
    outcomes = list(plain.map(range(4), kwargs={"fail_at": 2}, return_exceptions=True))
    assert outcomes[:2] == [0, 2] and outcomes[3] == 6, outcomes
    inner = getattr(outcomes[2], "exc", outcomes[2])
    assert isinstance(inner, KeyError) and inner.args == ("number 2",), outcomes
    try:
        list(plain.map(range(4), kwargs={"fail_at": 2}))
    except KeyError as error:
        assert error.args == ("number 2",)
    else:
        raise AssertionError("the map went on over an exception")
    plain.for_each(range(4), kwargs={"fail_at": 2}, ignore_exceptions=True)


def check_aio() -> None:
    async def all_ways() -> None:
        assert await plain.remote.aio(2) == 4
        assert [value async for value in plain.map.aio(range(4))] == [0, 2, 4, 6]
        assert [value async for value in plain.starmap.aio([(2, 2)])] == [4]
        await plain.for_each.aio(range(2))
        call = await plain.spawn.aio(8)
        assert await call.get.aio(timeout=60) == 16
        assert [value async for value in count_async.remote_gen.aio(3)] == [0, 1, 2]
        assert await asyncio.gather(*(coroutine.remote.aio(number) for number in range(10))) == [
            (number + 1, "🔥") for number in range(10)
        ]

    asyncio.run(all_ways())


def check_spawn() -> None:
    call = plain.spawn(11)
    assert call.get(timeout=60) == 22
    assert call.get(timeout=60) == 22, "a result can be fetched again"
    code = f"import modal; print(modal.FunctionCall.from_id({call.object_id!r}).get(timeout=60))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "22\n"
    calls = [plain.spawn(number) for number in range(5)]
    gather = getattr(modal.FunctionCall, "gather", None) or modal.functions.gather
    assert gather(*calls) == [0, 2, 4, 6, 8]
    slow = plain.spawn(1, pause_s=5)
    try:
        slow.get(timeout=0)
    except TimeoutError:
        pass
    else:
        raise AssertionError("there was a result at once")
    assert slow.get() == 2
    failed = plain.spawn(3, fail_at=3)
    for _ in range(2):
        try:
            failed.get()
        except KeyError as error:
            assert error.args == ("number 3",)
        else:
            raise AssertionError("no exception")


def check_spawn_map() -> None:
    name = f"spawned-{os.getpid()}"
    noted = modal.Queue.from_name(name, create_if_missing=True)
    note.spawn_map(range(20), kwargs={"name": name})
    assert sorted(noted.get(timeout=60) for _ in range(20)) == list(range(20))
    if not hasattr(plain, "experimental_spawn_map"):
        return
    call = plain.experimental_spawn_map(range(60))
    assert call.num_inputs() == 60
    assert [call.get(index=number) for number in (0, 33, 59)] == [0, 66, 118]
    assert list(call.iter()) == [2 * number for number in range(60)]


def check_cancel() -> None:
    call = plain.spawn(1, pause_s=100)  # queued, or on its way to a container; behaviour.py cancels what runs
    call.cancel()
    try:
        call.get(timeout=60)
    except (modal.exception.InputCancellation, modal.exception.RemoteError) as error:
        assert str(error), "a cancellation says so"
    else:
        raise AssertionError("a cancelled call gave a result")


def check_call_graph() -> None:
    call = nested.spawn(0)
    call.get()
    graph = call.get_call_graph()
    assert [(node.function_name, node.status.name) for node in graph] == [("nested", "SUCCESS")], graph
    call = nested.spawn(1)
    call.get()
    (root,) = call.get_call_graph()
    names = sorted({child.function_name for child in root.children})
    assert names == ["blob", "count", "nested", "plain"], names


def check_generators() -> None:
    assert list(count.remote_gen(4)) == [(number, b"x" * number) for number in range(4)]
    assert list(count_async.remote_gen(300)) == list(range(300))
    assert list(count.remote_gen(0)) == []
    for generator, expected in ((count, [(0, b""), (1, b"x")]), (count_async, [0, 1])):
        seen: list[object] = []
        try:
            for value in generator.remote_gen(5, fail_at=2):
                seen.append(value)
        except ValueError as error:
            assert error.args == ("stuck at 2",)
        else:
            raise AssertionError("the generator's exception was lost")
        assert seen == expected, seen
    stopped_early = count_async.remote_gen(1000)
    assert next(iter(stopped_early)) == 0


def check_exceptions() -> None:
    try:
        oddities.remote(7)
    except Odd as error:
        assert error.number == 7 and error.args == (7, "it is odd")
        shown = "".join(traceback.format_exception(error))
        line = deep_inside.__code__.co_firstlineno + 1
        assert f'functions.py", line {line}, in deep_inside' in shown, shown
        assert "in oddities" in shown
    else:
        raise AssertionError("no exception")


def check_nested() -> None:
    mapped, spawned, generated, received, sent, inner = nested.remote(1)
    assert mapped == [0, 2, 4, 6, 8] and spawned == 40 and generated == [0, 1, 2]
    assert (received, sent) == (4 * MIB, 3 * MIB)
    assert str(inner).startswith("ta-")


def check_large_data() -> None:
    received, data = blob.remote(30 * MIB, b"z" * (30 * MIB))
    assert received == 30 * MIB and data == bytes([7]) * (30 * MIB)
    assert [len(data) for _, data in blob.map([3 * MIB] * 3)] == [3 * MIB] * 3
    call = blob.spawn(20_000, b"q" * 20_000)  # beyond what a spawned call may carry inline
    assert call.get() == (20_000, bytes([7]) * 20_000)


def check_dict_and_queue() -> None:
    name = f"kept-{os.getpid()}"
    kept = modal.Dict.from_name(name, create_if_missing=True)
    queue = modal.Queue.from_name(name, create_if_missing=True)
    kept["from client"] = (1, None)
    assert kept.put("first", "first time", skip_if_exists=True)
    queue.put("a")
    queue.put("b")
    assert keeper.remote("read", name) == ((1, None), ["a", "b"])
    assert keeper.remote("write", name) is False
    assert kept["from container"] == {"a": [1, 2]} and kept["first"] == "first time"
    assert [queue.get(), queue.get(timeout=5)] == ["c", "d"]
    assert queue.get(block=False) is None


def check_secret() -> None:
    assert secretive.remote() == ("swordfish", "")


def check_serialized() -> None:
    assert pickled.remote(5) == "5 on Linux"


def check_context() -> None:
    input_id, call_id, is_local = who_am_i.remote()
    assert str(input_id).startswith("in-") and str(call_id).startswith("fc-") and is_local is False
    assert modal.is_local()
