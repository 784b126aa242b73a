"""The ruler: what the unmodified client costs at both ends when the server between them does nothing.

    python -m bench.floor [call | map | all] [--rounds 3] [--calls 400] [--inputs 5000] [--linger-ms 5] [--json]

Three kinds of processes of the same interpreter: the null server, the stock client (TCP on the loopback), and containers that are
the client's own entry point as a plain subprocess (a unix socket), without any isolation.

call    `.remote()` of a function that does nothing, one at a time: p50_ms, p95_ms, p99_ms of one round, and CPU per call
map     `.map()` over a range, results in order: inputs_per_s with one container, two, and one that takes 100 inputs at once, and
        CPU per input, of all containers together

Every figure is the median over the rounds.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modal_proto import api_pb2

from bench.figures import Figures, medians, percentiles, show
from bench.processes import Process, clean_environment

REPOSITORY = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 20.0
IMAGE_ID = "im-1"  # what the program's functions say that they need
WARM_UP_SHARE, WARM_UP_COUNT = 5, 50  # a fifth of what is measured, and no fewer than so many


@dataclass(frozen=True)
class Case:
    """A function of `program` and what serves it."""

    function: str
    containers: int = 1
    inputs_at_once: int = 1


CALL = Case("one_container")
MAPS = {
    "map, one container": Case("one_container"),
    "map, two containers": Case("two_containers", containers=2),
    "map, 100 at once": Case("hundred_at_once", inputs_at_once=100),
}


class Ruler:
    """A running null server with idle containers and a client."""

    def __init__(self, client: Process, processes: dict[str, list[Process]], case: Case) -> None:
        self._client = client
        self._processes = processes
        self._case = case

    def work(self, kind: str, count: int) -> dict[str, Any]:
        """Have the client call or map so many times; what it measured."""
        return self._client.ask(work=kind, app="floor", function=self._case.function, count=count)

    def cpu_s(self) -> Figures:
        """CPU time so far by kind of process."""
        return {kind: sum(process.cpu_s() for process in members) for kind, members in self._processes.items()}


@contextmanager
def running(case: Case, linger_ms: float) -> Generator[Ruler, None, None]:
    """A ruler whose containers all wait for input."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-floor-") as name, ExitStack() as stack:
        directory, socket = Path(name), f"{name}/server.sock"
        arguments = directory / "arguments"
        arguments.write_bytes(container_arguments(case))
        python_path = {"PYTHONPATH": str(REPOSITORY)}

        def start(name: str, *command: str, **environment: str) -> Process:
            full = clean_environment(**python_path, **environment)
            return stack.enter_context(Process(name, [sys.executable, "-m", *command], directory, full))

        options = ("--socket", socket, "--containers", str(case.containers), "--linger-ms", str(linger_ms))
        server = start("server", "bench.null_server", *options)
        port = server.reply(START_TIMEOUT_S)["port"]
        containers = [
            start(
                f"container{number}",
                "modal._container_entrypoint",
                MODAL_IS_REMOTE="1",
                MODAL_SERVER_URL=f"unix://{socket}",
                MODAL_TASK_ID=f"ta-{number}",
                MODAL_CONTAINER_ARGUMENTS_PATH=str(arguments),
            )
            for number in range(case.containers)
        ]
        server.reply(START_TIMEOUT_S)
        token = {"MODAL_TOKEN_ID": "ak-floor", "MODAL_TOKEN_SECRET": "as-floor"}
        client = start("client", "bench.client", MODAL_SERVER_URL=f"http://127.0.0.1:{port}", **token)
        yield Ruler(client, {"client": [client], "server": [server], "container": containers}, case)


def container_arguments(case: Case) -> bytes:
    """What a container of this case is told to run, serialized."""
    function = api_pb2.Function(
        module_name="bench.program",
        function_name=case.function,
        implementation_name=case.function,
        definition_type=api_pb2.Function.DEFINITION_TYPE_FILE,
        function_type=api_pb2.Function.FUNCTION_TYPE_FUNCTION,
        max_concurrent_inputs=case.inputs_at_once,
        supported_input_formats=[api_pb2.DATA_FORMAT_PICKLE],
        supported_output_formats=[api_pb2.DATA_FORMAT_PICKLE],
        object_dependencies=[api_pb2.ObjectDependency(object_id=IMAGE_ID)],
    )
    layout = api_pb2.AppLayout(objects=[api_pb2.Object(object_id=IMAGE_ID)])
    arguments = api_pb2.ContainerArguments(
        task_id="ta-0", function_id="fu-1", app_id="ap-1", environment_name="main", function_def=function, app_layout=layout
    )
    return arguments.SerializeToString()


def measured(work: Callable[[str, int], dict[str, Any]], kind: str, count: int) -> Figures:
    """One round of calls or of one map, by whoever does the work."""
    answer = work(kind, count)
    return percentiles(answer["latencies_ms"], 50, 95, 99) if kind == "call" else {"inputs_per_s": count / answer["elapsed_s"]}


def with_cpu(ruler: Ruler, kind: str, count: int) -> Figures:
    """The same, with the ruler's CPU milliseconds per call or input."""
    before = ruler.cpu_s()
    figures = measured(ruler.work, kind, count)
    return figures | {f"{process}_cpu_ms": (after - before[process]) * 1000 / count for process, after in ruler.cpu_s().items()}


def warm_up_count(count: int) -> int:
    """How much goes before what is measured."""
    return max(WARM_UP_COUNT, count // WARM_UP_SHARE)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all measurements beside this ruler share."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--linger-ms", type=float, default=5.0, help="how long the null server waits for company before it replies")
    parser.add_argument("--json", action="store_true")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["call", "map", "all"], default="all")
    add_options(parser)
    options = parser.parse_args()
    cases = {"call": ("call", CALL, options.calls)} if options.what != "map" else {}
    if options.what != "call":
        cases |= {title: ("map", case, options.inputs) for title, case in MAPS.items()}
    columns: dict[str, Figures] = {}
    for title, (kind, case, count) in cases.items():
        with running(case, options.linger_ms) as ruler:
            ruler.work(kind, warm_up_count(count))
            columns[title] = medians([with_cpu(ruler, kind, count) for _ in range(options.rounds)])
    show("floor", columns, options.json)


if __name__ == "__main__":
    main()
