"""The stock client against a whole platform in this process: functions and classes in every way of calling them."""

import asyncio
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import modal
import pytest
from platform_in_process import Platform

app = modal.App("functions")
LARGE = 3 << 20
DEADLINE_S = 60


@app.function(serialized=True)
def double(number: int) -> int:
    return 2 * number


@app.function(serialized=True)
def fail(message: str) -> None:
    raise ValueError(message)


@app.function(serialized=True, retries=modal.Retries(max_retries=2, initial_delay=0.0, backoff_coefficient=1.0))
def succeed_at_third(path: str) -> int:
    from pathlib import Path

    with Path(path).open("a") as log:
        log.write("x")
    tries = Path(path).stat().st_size
    if tries < 3:
        raise RuntimeError(f"try {tries}")
    return tries


@app.function(serialized=True)
def count(limit: int):  # type: ignore[no-untyped-def]
    yield from range(limit)


@app.function(serialized=True)
def die_once(path: str) -> str:
    import os
    from pathlib import Path

    if not Path(path).exists():
        Path(path).touch()
        os._exit(3)
    return "survived"


@app.function(serialized=True)
def wait_for(path: str) -> None:
    import time
    from pathlib import Path

    Path(path).touch()
    while True:
        time.sleep(0.05)


@app.function(serialized=True, timeout=1, startup_timeout=60)
def hang() -> None:
    import time

    time.sleep(600)


@app.function(serialized=True)
@modal.batched(max_batch_size=3, wait_ms=500)
def size_of_batch(numbers: list[int]) -> list[int]:
    return [len(numbers)] * len(numbers)


@app.cls(serialized=True)
class Counter:
    start: int = modal.parameter(default=10)

    @modal.enter()
    def prepare(self) -> None:
        self.total = self.start

    @modal.method()
    def add(self, number: int) -> int:
        self.total += number
        return self.total


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    running = Platform()
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[modal.Client]:
    before = dict(os.environ)
    os.environ |= {
        "MODAL_SERVER_URL": platform.url,
        "MODAL_TOKEN_ID": platform.token[0],
        "MODAL_TOKEN_SECRET": platform.token[1],
        "MODAL_DISABLE_API_PROXY": "1",
        "MODAL_CONFIG_PATH": str(platform.settings.state / "modal.toml"),
    }
    try:
        with modal.Client.from_credentials(*platform.token) as client:
            yield client
    finally:
        os.environ.clear()
        os.environ |= before


@pytest.fixture(scope="module")
def running(client: modal.Client) -> Iterator[modal.App]:
    with app.run(client=client):
        yield app


@pytest.mark.usefixtures("running")
class TestCalls:
    def test_remote_and_local(self) -> None:
        assert double.remote(4) == 8
        assert double.local(4) == 8

    def test_keyword_arguments(self) -> None:
        assert double.remote(number=21) == 42

    def test_map_keeps_the_order_and_starmap_unpacks(self) -> None:
        assert list(double.map(range(120))) == [2 * number for number in range(120)]
        assert list(double.starmap([(1,), (2,)])) == [2, 4]
        assert sorted(double.map(range(5), order_outputs=False)) == [0, 2, 4, 6, 8]

    def test_exceptions_keep_their_type_and_words(self) -> None:
        with pytest.raises(ValueError, match="of no use"):
            fail.remote("of no use")
        found = list(fail.map(["a", "b"], return_exceptions=True))
        assert [type(error) for error in found] == [ValueError, ValueError]

    def test_spawned_calls_are_found_again(self) -> None:
        call = double.spawn(3)
        again = modal.FunctionCall.from_id(call.object_id)
        assert call.get(timeout=60) == again.get(timeout=20) == 6
        assert modal.FunctionCall.gather(double.spawn(1), double.spawn(2)) == [2, 4]

    def test_retries_of_a_caller_that_waits_and_of_one_that_does_not(self, tmp_path: Path) -> None:
        assert succeed_at_third.remote(str(tmp_path / "remote")) == 3
        assert succeed_at_third.spawn(str(tmp_path / "spawn")).get(timeout=60) == 3

    def test_generators(self) -> None:
        assert list(count.remote_gen(5)) == [0, 1, 2, 3, 4]

    def test_async_calls(self) -> None:
        async def both() -> tuple[int, list[int]]:
            return await double.remote.aio(1), [number async for number in double.map.aio([1, 2])]

        assert asyncio.run(both()) == (2, [2, 4])

    def test_a_dead_container_costs_nothing_but_time(self, tmp_path: Path) -> None:
        assert die_once.remote(str(tmp_path / "died")) == "survived"

    def test_a_cancelled_call_ends(self, tmp_path: Path, started: Callable[[Path], None]) -> None:
        call = wait_for.spawn(str(tmp_path / "started"))
        started(tmp_path / "started")
        call.cancel()
        with pytest.raises(modal.exception.RemoteError, match="cancelled"):
            call.get(timeout=60)

    def test_an_input_has_so_much_time(self) -> None:
        with pytest.raises(modal.exception.FunctionTimeoutError, match="timeout"):
            hang.remote()

    def test_batches_are_formed_of_what_comes_together(self) -> None:
        assert list(size_of_batch.map(range(6))) == [3] * 6

    def test_a_class_keeps_its_state_and_each_parameter_has_its_own(self) -> None:
        counter, other = Counter(), Counter(start=100)
        assert counter.add.remote(1) == 11
        assert counter.add.remote(1) == 12
        assert other.add.remote(1) == 101


@pytest.fixture
def started() -> Callable[[Path], None]:
    """Waits until a file is there."""
    from watchfiles import watch

    def wait(path: Path) -> None:
        for _ in watch(path.parent, rust_timeout=200, yield_on_timeout=True, raise_interrupt=False):
            if path.exists():
                return

    return wait


def test_a_deployed_function_is_found_by_name(client: modal.Client) -> None:
    other = modal.App("deployed")
    other.function(serialized=True, name="triple")(lambda number: 3 * number)
    other.deploy(client=client)
    assert modal.Function.from_name("deployed", "triple").hydrate(client).remote(2) == 6
    with pytest.raises(modal.exception.NotFoundError, match="nothing"):
        modal.Function.from_name("deployed", "nothing").hydrate(client)


def test_what_is_not_built_is_refused_by_name(client: modal.Client) -> None:
    refused = modal.App("refused")
    refused.function(serialized=True, name="many")(modal.clustered(size=2)(lambda: None))
    with pytest.raises(modal.exception.Error, match="clusters"):
        refused.deploy(client=client)


def test_a_deployed_schedule_fires_by_itself_until_the_app_stops(client: modal.Client) -> None:
    scheduled, ticks = modal.App("ticking"), modal.Queue.from_name("ticks", create_if_missing=True).hydrate(client)

    def tick() -> None:
        import modal

        modal.Queue.from_name("ticks").put("tick")

    scheduled.function(serialized=True, schedule=modal.Period(seconds=1))(tick)
    scheduled.deploy(client=client)
    assert ticks.get_many(2, timeout=DEADLINE_S)
    subprocess.run([sys.executable, "-m", "modal", "app", "stop", "ticking", "--yes"], check=True, capture_output=True)
    ticks.clear()
    with pytest.raises(queue.Empty):
        for _ in range(3):  # a container that was at it may have said its last tick since
            ticks.get(timeout=2.5)


def test_a_schedule_that_can_not_be_followed_is_refused(client: modal.Client) -> None:
    odd = modal.App("odd")
    odd.function(serialized=True, name="nightly", schedule=modal.Cron("0 25 * * *"))(lambda: None)
    with pytest.raises(modal.exception.InvalidError, match=r"nightly.*25"):
        odd.deploy(client=client)
