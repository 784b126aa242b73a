"""A web app through a running platform, container and all, beside the ruler of bench.null_web: the two take turns in each round.

    python -m bench.web [--state DIR] [--set SETTING=VALUE] [--rounds 3] [--seconds 4] [--connections 32] [--mib 1024] [--json]

p50_ms, p99_ms      of the first byte of `GET /`, on one connection, each request as soon as the one before is answered
requests_per_s      of `GET /` on 32 connections, with one request at a time on each; *_cpu_ms: CPU per request of each process then
*_mb_per_s          1 GiB up and down, on one connection each; *_growth_mib: memory that the processes took meanwhile, at most

The app takes 100 requests at once, in one container. "ratio" is the median of the rounds' ratios: above 1 is slower for times,
below 1 is slower for rates. A platform that runs already has to run without a limit of requests (PILOTLIGHT_WEB_RATE_LIMIT=0).
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from modal_proto import api_pb2

from bench import floor, platform, web_load
from bench.figures import Figures, medians, percentiles, show
from bench.processes import Failed, Process, clean_environment, cpu_s, watched
from bench.web_load import Site
from bench.web_program import APP, FUNCTION, REQUESTS_AT_ONCE

MODULE = "bench.web_program"
WARM_UP_S = 2.0
RATES = ("requests_per_s", "upload_mb_per_s", "download_mb_per_s")


@dataclass(frozen=True)
class Side:
    """Who serves the app: where, by which processes."""

    site: Site
    pids: Mapping[str, int]


@contextmanager
def ruler() -> Generator[Side, None, None]:
    """The null edge and its container."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-floor-") as name, ExitStack() as stack:
        directory, socket_path = Path(name), f"{name}/server.sock"
        arguments = directory / "arguments"
        arguments.write_bytes(container_arguments())

        def start(name: str, *command: str, **environment: str) -> Process:
            full = clean_environment(PYTHONPATH=str(floor.REPOSITORY), **environment)
            return stack.enter_context(Process(name, [sys.executable, "-m", *command], directory, full))

        edge = start("edge", "bench.null_web", "--socket", socket_path)
        port = edge.reply(floor.START_TIMEOUT_S)["port"]
        container = start(
            "container",
            "modal._container_entrypoint",
            MODAL_IS_REMOTE="1",
            MODAL_SERVER_URL=f"unix://{socket_path}",
            MODAL_TASK_ID="ta-1",
            MODAL_CONTAINER_ARGUMENTS_PATH=str(arguments),
        )
        edge.reply(floor.START_TIMEOUT_S)
        yield Side(Site(port, "floor"), {"edge": edge.pid, "container": container.pid})


def container_arguments() -> bytes:
    """What the ruler's container is told to run, serialized."""
    webhook = api_pb2.WebhookConfig(type=api_pb2.WEBHOOK_TYPE_ASGI_APP, async_mode=api_pb2.WEBHOOK_ASYNC_MODE_AUTO)
    function = api_pb2.Function(
        module_name=MODULE,
        function_name=FUNCTION,
        implementation_name=FUNCTION,
        definition_type=api_pb2.Function.DEFINITION_TYPE_FILE,
        function_type=api_pb2.Function.FUNCTION_TYPE_GENERATOR,
        max_concurrent_inputs=REQUESTS_AT_ONCE,
        webhook_config=webhook,
        supported_input_formats=[api_pb2.DATA_FORMAT_ASGI],
        supported_output_formats=[api_pb2.DATA_FORMAT_ASGI, api_pb2.DATA_FORMAT_GENERATOR_DONE],
        object_dependencies=[api_pb2.ObjectDependency(object_id=floor.IMAGE_ID)],
    )
    layout = api_pb2.AppLayout(objects=[api_pb2.Object(object_id=floor.IMAGE_ID)])
    arguments = api_pb2.ContainerArguments(
        task_id="ta-1", function_id="fu-1", app_id="ap-1", environment_name="main", function_def=function, app_layout=layout
    )
    return arguments.SerializeToString()


def deployed(running: platform.Platform) -> tuple[Side, str]:
    """The app on the platform; and the interpreter of its container."""
    running.deploy(MODULE)
    ask = f"import modal; print(modal.Function.from_name({APP!r}, {FUNCTION!r}).get_web_url())"
    url = urlsplit(platform.run([sys.executable, "-c", ask], running.environment).strip())
    assert url.hostname and url.port
    site = Site(url.port, url.netloc)
    about = web_load.fetch(site, "/about")
    pids = {name: pid for name, pid in running.pids().items() if name in ("server", "edge", "node")}
    return Side(site, pids | {"container": container_pid(about["task_id"])}), f"{about['interpreter']} {about['python']}"


def container_pid(task_id: str) -> int:
    """The process of a container that runs the app, as this machine counts it. Its init is idle."""
    wanted, found = f"MODAL_TASK_ID={task_id}".encode(), dict[int, float]()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = cpu_s(int(process.name))
        except OSError:
            continue  # it has ended, or is not ours
    if not found:
        raise Failed(f"there is no process of the container {task_id} on this machine")
    return max(found, key=lambda pid: found[pid])


def measured(side: Side, options: argparse.Namespace) -> Figures:
    """One round."""
    figures = percentiles(web_load.first_bytes_ms(side.site, options.seconds), 50, 99)
    before = {name: cpu_s(pid) for name, pid in side.pids.items()}
    count = web_load.answered(side.site, options.connections, options.seconds)
    figures["requests_per_s"] = count / options.seconds
    figures |= {f"{name}_cpu_ms": (cpu_s(pid) - before[name]) * 1000 / count for name, pid in side.pids.items()}
    for name, transfer in (("upload", web_load.upload), ("download", web_load.download)):
        with watched(side.pids) as growth:
            figures[f"{name}_mb_per_s"] = transfer(side.site, options.mib << 20) / 1e6
        figures |= {f"{name}: {process}_growth_mib": size / (1 << 20) for process, size in growth.items()}
    return figures


def compare(sides: Mapping[str, Side], work: Callable[[Side], Figures], rounds: int) -> dict[str, Figures]:
    """Medians of each side, and the median of the rounds' ratios of the times and rates that both have."""
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds):
        # Who goes first changes each round, so that neither always finds the machine warm.
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            found[name].append(work(sides[name]))
    ratio = {
        name: float(f"{statistics.median(ours[name] / rule[name] for ours, rule in zip(*found.values(), strict=True)):.3g}")
        for name in ("p50_ms", "p99_ms", *RATES, "container_cpu_ms")
    }
    return {**{name: medians(figures) for name, figures in found.items()}, "ratio": ratio}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of small requests")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--mib", type=int, default=1024, help="of each large body")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with platform.running(options) as running, ruler() as rule:
        ours, interpreter = deployed(running)
        sides = {"platform": ours, "ruler": rule}
        for side in sides.values():
            web_load.answered(side.site, options.connections, WARM_UP_S)
        columns = compare(sides, lambda side: measured(side, options), options.rounds)
        running.stop(APP)
    show("web", columns, options.json, container=interpreter)


if __name__ == "__main__":
    main()
