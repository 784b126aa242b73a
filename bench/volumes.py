"""Volumes on a running platform: transfers beside a bare HTTP server, many small files, and the speed inside a container.

    python -m bench.volumes [--state DIR] [--set SETTING=VALUE] [--rounds 3] [--mib 1024] [--files 10000] [--json]

put, get             `modal volume put` and `get` of a file of 1 GiB, without the interpreter's start. "bare HTTP": the same client
                     with the same bytes, to and from a server on the loopback that drops them or sends a file; it hashes and sends
                     as for version 2. "unhashed put": its HTTP library alone. "ratio": our MB/s through bare HTTP's, the median
small files          10,000 files of 1 KiB by one `modal volume put` of their directory, synced before it is answered
inside a container   1 GiB written in order, with fsync, and read back: from the disk, and from the page cache; beside the same code
                     on the host, in the same directory

*_cpu_s is CPU time of a transfer by process, *_cpu_ms that of a file; *_growth_mib memory that the process took meanwhile, at most.
The sides take turns, and who is first changes with each round.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import platform
from bench.figures import Figures, medians, show
from bench.floor import START_TIMEOUT_S
from bench.platform import Platform
from bench.processes import Process, clean_environment, cpu_s, watched
from bench.volumes_program import APP, FUNCTION, VOLUME

MODULE = "bench.volumes_program"
VERSIONS = (2, 1)
SMALL_BYTES = 1024
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Bench:
    """All that takes part in transfers."""

    client: Process
    pids: Mapping[str, int]  # server and edge
    port: int  # of the bare server
    source: Path
    target: Path
    size: int

    def ours(self, version: int) -> Figures:
        """Put and get of one file, which no platform has seen before."""
        with self.source.open("r+b") as file:
            file.write(os.urandom(32))
        figures, put = self._transfer("put", work="put", version=version, path=str(self.source))
        got, _ = self._transfer("get", work="get", volume=put["volume"], path=str(self.target))
        if self.target.stat().st_size != self.size:
            raise RuntimeError("what was fetched has another length")
        self.client.ask(work="delete", volume=put["volume"])
        return figures | got

    def bare(self) -> Figures:
        """The same bytes to and from the bare server."""
        figures: Figures = {}
        for work, path in (("bare put", self.source), ("bare get", self.target), ("alone put", self.source)):
            name = "unhashed put" if work == "alone put" else work.removeprefix("bare ")
            answer = self.client.ask(work=work, port=self.port, path=str(path), size=self.size)
            figures |= {
                f"{name}_mb_per_s": self.size / 1e6 / float(answer["elapsed_s"]),
                f"{name}: client_cpu_s": float(answer["cpu_s"]),
            }
        return figures

    def _transfer(self, name: str, **question: object) -> tuple[Figures, dict[str, object]]:
        before = {process: cpu_s(pid) for process, pid in self.pids.items()}
        with watched(self.pids) as growth:
            answer = self.client.ask(**question)
        figures = {
            f"{name}_mb_per_s": self.size / 1e6 / float(answer["elapsed_s"]),
            f"{name}: client_cpu_s": float(answer["cpu_s"]),
        }
        for process, pid in self.pids.items():
            figures[f"{name}: {process}_cpu_s"] = cpu_s(pid) - before[process]
            figures[f"{name}: {process}_growth_mib"] = growth[process] / (1 << 20)
        return figures, answer

    def small_files(self, version: int, directory: Path, count: int) -> Figures:
        """Files of contents that no platform has seen before."""
        directory.mkdir(exist_ok=True)
        for number in range(count):
            (directory / f"file-{number}").write_bytes(os.urandom(SMALL_BYTES))
        before = {process: cpu_s(pid) for process, pid in self.pids.items()}
        with watched(self.pids) as growth:
            answer = self.client.ask(work="put", version=version, path=str(directory))
        figures = {"files_per_s": count / float(answer["elapsed_s"]), "client_cpu_ms": float(answer["cpu_s"]) * 1000 / count}
        for process, pid in self.pids.items():
            figures[f"{process}_cpu_ms"] = (cpu_s(pid) - before[process]) * 1000 / count
            figures[f"{process}_growth_mib"] = growth[process] / (1 << 20)
        self.client.ask(work="delete", volume=answer["volume"])
        return figures


@contextmanager
def prepared(running: Platform, size: int) -> Generator[Bench, None, None]:
    """The processes, and a file of that many random bytes."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-volumes-") as name, ExitStack() as stack:
        directory = Path(name)
        source = directory / "source"
        with source.open("wb") as file:
            for _ in range(0, size, COPY_BYTES):
                file.write(os.urandom(COPY_BYTES))

        def start(name: str, environment: Mapping[str, str], *command: str) -> Process:
            return stack.enter_context(Process(name, [sys.executable, "-m", *command], directory, environment))

        own = clean_environment(PYTHONPATH=str(platform.REPOSITORY))
        server = start("bare", own, "bench.volumes_server", str(source))
        client = start("client", running.environment, "bench.volumes_client")
        pids = {process: pid for process, pid in running.pids().items() if process in ("server", "edge")}
        yield Bench(client, pids, server.reply(START_TIMEOUT_S)["port"], source, directory / "target", size)


def transfers(bench: Bench, rounds: int) -> dict[str, Figures]:
    """Both versions and the bare server, in turn."""
    sides: dict[str, Callable[[], Figures]] = {f"v{version}": lambda version=version: bench.ours(version) for version in VERSIONS}
    found = in_turn({**sides, "bare HTTP": bench.bare}, rounds)
    names = ("put_mb_per_s", "get_mb_per_s")
    columns = {name: medians(figures) for name, figures in found.items()}
    return columns | {f"{side} ratio": ratios(found[side], found["bare HTTP"], names) for side in sides}


def in_container(running: Platform, rounds: int, mib: int) -> tuple[dict[str, Figures], str]:
    """The volume in a container beside its directory; and the container's interpreter."""
    running.deploy(MODULE)
    place = platform.run([platform.PILOTLIGHT, "volume", "path", VOLUME, "--state", str(running.state)]).strip()
    with tempfile.TemporaryDirectory(prefix="pilotlight-volumes-") as name:
        python_path = clean_environment(PYTHONPATH=str(platform.REPOSITORY))
        with (
            Process("host", [sys.executable, "-m", MODULE, place], Path(name), python_path) as host,
            Process("client", [sys.executable, "-m", "bench.client"], Path(name), running.environment) as client,
        ):

            def inside(size_mib: int = mib) -> dict[str, object]:
                return client.ask(work="ask", app=APP, function=FUNCTION, count=size_mib)["answer"]

            interpreter = str(inside(1).pop("interpreter"))  # starts the container
            sides: dict[str, Callable[[], Figures]] = {
                "volume": lambda: {name: float(value) for name, value in inside().items() if name != "interpreter"},
                "host": lambda: host.ask(mib=mib),
            }
            found = in_turn(sides, rounds)
    running.stop(APP)
    platform.run([platform.MODAL, "volume", "delete", "--yes", VOLUME], running.environment)
    columns = {name: medians(figures) for name, figures in found.items()}
    return columns | {"ratio": ratios(found["volume"], found["host"], tuple(columns["host"]))}, interpreter


def in_turn(sides: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, list[Figures]]:
    """What each found in each round."""
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            found[name].append(sides[name]())
    return found


def ratios(ours: list[Figures], rule: list[Figures], names: tuple[str, ...]) -> Figures:
    """The median of the rounds' ratios."""
    return {
        name: float(f"{statistics.median(our[name] / their[name] for our, their in zip(ours, rule, strict=True)):.3g}")
        for name in names
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024, help="of each large file")
    parser.add_argument("--files", type=int, default=10_000, help="small ones")
    parser.add_argument("--only", choices=("transfers", "small", "container"), help="one of the three parts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with platform.running(options) as running:
        if options.only != "container":
            with prepared(running, options.mib << 20) as bench:
                if options.only != "small":
                    show("volumes: put and get", transfers(bench, options.rounds), options.json)
                if options.only != "transfers":
                    directory = bench.source.parent / "small"
                    sides = {
                        f"v{version}": lambda version=version: bench.small_files(version, directory, options.files)
                        for version in VERSIONS
                    }
                    found = in_turn(sides, options.rounds)
                    show("volumes: small files", {name: medians(figures) for name, figures in found.items()}, options.json)
        if options.only in (None, "container"):
            columns, interpreter = in_container(running, options.rounds, options.mib)
            show("volumes: inside a container", columns, options.json, container=interpreter)


if __name__ == "__main__":
    main()
