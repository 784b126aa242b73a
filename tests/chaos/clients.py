"""The clients of a campaign: stock programs, one process for each kind of work, that ask and check until they are told to stop.

python -m tests.chaos.clients ROLE --seed N --journal FILE [--pace S]; it stops after its operation when its standard input ends.
"""

import argparse
import faulthandler
import itertools
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import modal

from tests.chaos.journal import Journal, Outcome
from tests.chaos.program import APP

REQUEST_TIMEOUT_S = 60.0


class NotAsAsked(Exception):
    """A result that is not what the operation must give."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


def expect(right: bool, detail: object, outcome: Outcome = Outcome.WRONG) -> None:
    if not right:
        raise NotAsAsked(outcome, str(detail))


def function(name: str) -> modal.Function:
    return modal.Function.from_name(APP, name)


class Client:
    """One kind of work: `work` is one operation, or some."""

    def __init__(self, role: str, seed: int, journal: Journal) -> None:
        self.role = role
        self.chance = random.Random(f"{role} {seed}")
        self.journal = journal
        self.run = f"{seed}-{uuid.uuid4().hex[:6]}"  # names of one campaign are not those of the next
        self._numbers = itertools.count(1)

    @contextmanager
    def operation(self, kind: str, amount: int = 1) -> Iterator[str]:
        """Write down what becomes of the block."""
        name = f"{self.role}-{self.run}-{next(self._numbers)}"
        entry = self.journal.begin(kind, name, amount)
        try:
            yield name
        except NotAsAsked as error:
            self.journal.end(entry, error.outcome, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the verdict judges it
            self.journal.end(entry, Outcome.FAILED, f"{type(error).__name__}: {error}"[:2000])
        else:
            self.journal.end(entry, Outcome.RIGHT)

    def finish(self) -> None:
        """Called once, at the end, when all is calm."""


class Remote(Client):
    def work(self) -> None:
        number = self.chance.randrange(10**6)
        if self.chance.random() < 0.15:
            data = self.chance.randbytes(self.chance.choice((3, 12)) << 20)  # travels as a blob, both ways
            with self.operation("remote of blobs"):
                _, back = function("digest").remote(data)
                expect(back == data[::-1], "other bytes came back")
            return
        with self.operation("remote"):
            found = function("square").remote(number, self.chance.choice((0.0, 0.05, 1.0)))
            expect(found == number * number, f"{number}² is not {found}")


class Map(Client):
    def work(self) -> None:
        size = self.chance.randrange(40, 200)
        ordered = self.chance.random() < 0.5
        with self.operation("map", size):
            results = list(function("slowly").map(range(size), kwargs={"pause_s": 0.03}, order_outputs=ordered))
            check_results(results, size, ordered)


def check_results(results: list[tuple[int, str]], size: int, ordered: bool) -> None:
    numbers = [number for number, _ in results]
    expect(len(set(numbers)) == len(numbers), f"{len(numbers) - len(set(numbers))} results came twice", Outcome.DOUBLED)
    expect(len(numbers) >= size, f"{size - len(numbers)} of {size} results are missing", Outcome.LOST)
    expect((numbers if ordered else sorted(numbers)) == list(range(size)), f"not the right ones, or not in order: {numbers}")


class Spawn(Client):
    """Calls whose ids were told are never lost, whatever comes: their results are asked for now, and again at the end."""

    def __init__(self, role: str, seed: int, journal: Journal) -> None:
        super().__init__(role, seed, journal)
        self._known: dict[str, tuple[int, str | None]] = {}  # call id → number, token

    def work(self) -> None:
        numbers = [self.chance.randrange(10**6) for _ in range(self.chance.randrange(1, 6))]
        calls: list[tuple[int, str]] = []
        for number in numbers:
            with self.operation("spawn"):
                call = function("slowly").spawn(number, self.chance.choice((0.0, 0.3, 2.0)))
                calls.append((number, call.object_id))
                self._known[call.object_id] = (number, None)
        for _, call_id in calls:
            with self.operation("get"):
                self._get(call_id)

    def finish(self) -> None:
        for call_id in self._known:
            with self.operation("get at the end"):
                self._get(call_id)

    def _get(self, call_id: str) -> None:
        number, token = self._known[call_id]
        found, new_token = modal.FunctionCall.from_id(call_id).get()
        expect(found == number, f"{call_id} is {found}, not {number}")
        expect(token in (None, new_token), f"{call_id} has had another result before", Outcome.DOUBLED)
        self._known[call_id] = (number, new_token)


class Generator(Client):
    def work(self) -> None:
        size = self.chance.randrange(20, 100)
        with self.operation("generator", size):
            values = list(function("count").remote_gen(size, 0.02))
            expect(len(set(values)) == len(values), f"{len(values) - len(set(values))} values came twice", Outcome.DOUBLED)
            expect(len(values) == size, f"{size - len(values)} of {size} values are missing", Outcome.LOST)
            expect(values == list(range(size)), f"not in order: {values}")


class Classes(Client):
    def work(self) -> None:
        base, numbers = self.chance.choice((10, 20)), range(self.chance.randrange(1, 10))
        with self.operation("method", len(numbers)):
            adder = modal.Cls.from_name(APP, "Adder")(base=base)
            found = [adder.add.remote(numbers[0])] if len(numbers) == 1 else list(adder.add.map(numbers))
            expect(found == [base + number for number in numbers], f"{base} + {list(numbers)} is not {found}")


class Batches(Client):
    def work(self) -> None:
        numbers = [self.chance.randrange(10**6) for _ in range(self.chance.randrange(1, 40))]
        with self.operation("batch", len(numbers)):
            found = list(function("doubled").map(numbers))
            expect(found == [2 * number for number in numbers], f"twice {numbers} is not {found}")


class Retries(Client):
    def work(self) -> None:
        with self.operation("retries") as name:
            found = function("stumbles").remote(name, self.chance.randrange(3))
            expect(found == name, f"{name} is not {found}")


class Once(Client):
    def work(self) -> None:
        number = self.chance.randrange(10**6)
        with self.operation("single use"):
            found = function("once").remote(number)
            expect(found == number + 1, f"{number} + 1 is not {found}")


class Queues(Client):
    """What was put is got once, in order; what a dict was told it says. Where an answer was lost, both are possible."""

    def __init__(self, role: str, seed: int, journal: Journal) -> None:
        super().__init__(role, seed, journal)
        self._queue = modal.Queue.from_name(f"chaos-{self.run}", create_if_missing=True)
        self._notes = modal.Dict.from_name(f"chaos-{self.run}", create_if_missing=True)
        self._said: dict[str, int] = {}

    def work(self) -> None:
        numbers = [self.chance.randrange(10**6) for _ in range(self.chance.randrange(1, 20))]
        got: list[int] = []
        partition = uuid.uuid4().hex  # a new one each time: what is uncertain of an operation does not reach the next
        with self.operation("queue", len(numbers)) as name:
            self._queue.put_many(numbers, partition=partition)
            while len(got) < len(numbers) and (more := self._queue.get_many(7, block=False, partition=partition)):
                got += more
            expect(len(got) >= len(numbers), f"put {numbers}, got {got}", Outcome.LOST)
            expect(len(got) <= len(numbers), f"put {numbers}, got {got}", Outcome.DOUBLED)
            expect(got == numbers, f"put {numbers}, got {got}")
            expect(self._queue.len(partition=partition) == 0, "something is left", Outcome.DOUBLED)
        with self.operation("dict") as name:
            self._notes[name] = numbers[0]
            self._said[name] = numbers[0]
            expect(self._notes[name] == numbers[0], f"{self._notes[name]} is not {numbers[0]}")

    def finish(self) -> None:
        with self.operation("dict at the end", len(self._said)):
            there = dict(self._notes.items())
            missing = [name for name in self._said if name not in there]
            expect(not missing, f"{missing} are not there", Outcome.LOST)
            expect(all(there[name] == value for name, value in self._said.items()), "other values are there")
            modal.Dict.objects.delete(f"chaos-{self.run}")
            modal.Queue.objects.delete(f"chaos-{self.run}")


class Web(Client):
    def work(self) -> None:
        number = self.chance.randrange(10**6)
        with self.operation("web request"):
            url = function("page").get_web_url()
            assert url is not None
            response = httpx.get(url, params={"number": number}, timeout=REQUEST_TIMEOUT_S, trust_env=False, follow_redirects=True)
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code} {response.text[:300]}")
            expect(response.text == f"number={number}", response.text)


class Volumes(Client):
    """Files that a container has committed are there, in the end too."""

    def __init__(self, role: str, seed: int, journal: Journal) -> None:
        super().__init__(role, seed, journal)
        self._kept: dict[str, str] = {}

    def work(self) -> None:
        with self.operation("volume") as name:
            text = uuid.uuid4().hex * self.chance.choice((1, 1000))
            function("keep").remote(name, text)
            self._kept[name] = text
        if self._kept:
            with self.operation("volume read"):
                self._check(self.chance.choice(list(self._kept)))

    def finish(self) -> None:
        for name in self._kept:
            with self.operation("volume at the end"):
                self._check(name)
        with self.operation("volume emptied at the end"):  # of what was written by calls whose callers never heard of it, too
            volume = modal.Volume.from_name("chaos-volume")
            for entry in volume.listdir("/"):
                if entry.path.startswith(f"{self.role}-{self.run}-"):
                    volume.remove_file(entry.path)

    def _check(self, name: str) -> None:
        try:
            found = b"".join(modal.Volume.from_name("chaos-volume").read_file(name)).decode()
        except FileNotFoundError as error:
            raise NotAsAsked(Outcome.LOST, f"{name} is not there") from error
        expect(found == self._kept[name], f"{name} holds {found[:80]!r}")


class Deployments(Client):
    """An app is deployed anew while it is called: who calls after that gets the new version, or a newer one."""

    def __init__(self, role: str, seed: int, journal: Journal) -> None:
        super().__init__(role, seed, journal)
        self._name = f"chaos-{self.run}"
        self._version = 0
        self._tried = 0

    def work(self) -> None:
        self._tried += 1
        version = self._tried
        app = modal.App(self._name, image=modal.Image.debian_slim(), include_source=False)

        def which() -> int:
            return version

        app.function(serialized=True, name="which", max_containers=1)(which)
        with self.operation("deploy"):
            app.deploy(name=self._name)
            self._version = version
        if self._version:
            for _ in range(3):
                with self.operation("call of a deployment"):
                    found = modal.Function.from_name(self._name, "which").remote()
                    expect(
                        self._version <= found <= self._tried,
                        f"version {found} answers, deployed were {self._version}…{self._tried}",
                    )

    def finish(self) -> None:
        with self.operation("stop at the end"):
            subprocess.run([sys.executable, "-m", "modal", "app", "stop", "--yes", self._name], check=True, capture_output=True)


class Builds(Client):
    """An image that nobody has built yet, and a container of it."""

    def work(self) -> None:
        mark = uuid.uuid4().hex
        image = modal.Image.debian_slim().run_commands(f"sleep 0.5; echo {mark} > /mark", "cat /mark /mark > /twice")
        app = modal.App(f"chaos-build-{mark}", image=image, include_source=False)

        def read_mark() -> str:
            return Path("/twice").read_text()

        reading = app.function(serialized=True, name="read_mark")(read_mark)
        with self.operation("build"):
            with app.run():
                found = reading.remote()
            expect(found == f"{mark}\n{mark}\n", f"{found!r} is not twice {mark}")


ROLES: dict[str, tuple[Callable[[str, int, Journal], Client], float]] = {  # and seconds between two of its operations
    "remote": (Remote, 0.3),
    "map": (Map, 0.5),
    "spawn": (Spawn, 0.3),
    "generator": (Generator, 0.3),
    "classes": (Classes, 0.5),
    "batches": (Batches, 0.5),
    "retries": (Retries, 0.7),
    "once": (Once, 0.2),
    "queues": (Queues, 0.3),
    "web": (Web, 0.2),
    "volumes": (Volumes, 1.0),
    "deployments": (Deployments, 3.0),
    "builds": (Builds, 4.0),
}


def main() -> None:
    """Work until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    options = parser.parse_args()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    make, pace_s = ROLES[options.role]
    client = make(options.role, options.seed, Journal(options.journal))
    print("ready", flush=True)
    stop = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    while not stop.is_set():
        began = time.monotonic()
        client.work()
        stop.wait(max(0.0, pace_s * client.chance.uniform(0.5, 1.5) - (time.monotonic() - began) * 0.1))
    client.finish()


if __name__ == "__main__":
    main()
