"""How long nobody is answered when the server is killed: from `kill -9` to the answer to a request that was sent at once.

    python -m bench.restart [--state DIR] [--set SETTING=VALUE] [--kills 20] [--json]

The request waits in the socket, which the supervisor holds. "CPU" is what the new server had used by then: on a busy machine it
says how long it would have taken on a quiet one.
"""

import argparse
import asyncio
import os
import signal
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel
from modal_proto.api_grpc import ModalClientStub

from bench import platform
from bench.figures import show

BETWEEN_S = 12.0  # a server that has served for 10 s is started again at once


def processor_s(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def hello(environment: Mapping[str, str]) -> None:
    """A small request, on a connection of its own."""
    host, _, port = environment["MODAL_SERVER_URL"].rpartition("/")[2].rpartition(":")
    metadata = {"x-modal-token-id": environment["MODAL_TOKEN_ID"], "x-modal-token-secret": environment["MODAL_TOKEN_SECRET"]}
    metadata |= {"x-modal-client-type": "1", "x-modal-client-version": "1.6.4"}
    async with Channel(host, int(port)) as channel:
        await ModalClientStub(channel).ClientHello(Empty(), metadata=metadata)


def killed(running: platform.Platform) -> tuple[float, float]:
    """Milliseconds until somebody answers again, and seconds of the processor."""
    pid = running.pids()["server"]
    os.kill(pid, signal.SIGKILL)
    began = time.perf_counter()
    while Path(f"/proc/{pid}").exists():  # else it is the old one that takes the connection
        time.sleep(0.001)
    asyncio.run(hello(running.environment))
    took_ms = (time.perf_counter() - began) * 1e3
    return took_ms, processor_s(running.pids()["server"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with platform.running(options) as running:
        asyncio.run(hello(running.environment))
        kills: list[tuple[float, float]] = []
        for _ in range(options.kills):
            time.sleep(BETWEEN_S)
            kills.append(killed(running))
    times, processor = ([kill[index] for kill in kills] for index in (0, 1))
    figures = {"p50_ms": statistics.median(times), "max_ms": max(times), "cpu_p50_s": statistics.median(processor)}
    show("restart of the server", {"kill -9": figures}, options.json, load=f"{os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
