"""What a pass of the server's scaling loop costs over many pools, in CPU time: no platform runs, nodes and pools are only declared.

    python -m bench.scaling_pass [--pools 10000] [--nodes 1000] [--rounds 5] [--json]

"quiet": every pool is thought over, none wants anything. "starts": as many wait for a first container as one pass starts; "each" is
what one of these decisions costs more.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog
from modal_proto import api_pb2

from bench.figures import Figures, medians, show
from pilotlight.config import Settings
from pilotlight.control.functions import FunctionRecord
from pilotlight.control.live import Pool
from pilotlight.control.nodes import NodeSession
from pilotlight.loops.scale import STARTS_PER_PASS, ScaleLoop
from pilotlight.server import Server


async def measure(state: Path, options: argparse.Namespace) -> dict[str, Figures]:
    """Figures by what the pools want."""
    server = await Server.open(Settings(state=state, synchronous="NORMAL"))
    try:
        for number in range(options.nodes):
            server.nodes.add(NodeSession(f"no-{number}", f"node {number}", 16_000, 65_536, "", 200))
        pools = [_pool(number) for number in range(options.pools)]
        loop = server.scale_loop(asyncio.get_running_loop().time)
        await _pass(server, loop, pools)
        quiet = medians([await _pass(server, loop, pools) for _ in range(options.rounds)])
        starts: list[Figures] = []
        for number in range(options.rounds):
            for pool in pools[number * STARTS_PER_PASS : (number + 1) * STARTS_PER_PASS]:
                pool.web_waiting = 1
            starts.append(await _pass(server, loop, pools))
        busy = medians(starts)
        busy["each_ms"] = (busy["pass_ms"] - quiet["pass_ms"]) / max(1, busy["started"])
        return {"quiet": quiet, "starts": busy}
    finally:
        await server.close()


def _pool(number: int) -> Pool:
    definition = api_pb2.Function(function_name=f"f{number}")
    handle = api_pb2.FunctionHandleMetadata()
    return Pool(FunctionRecord(f"fu-{number}", "ap-bench", f"f{number}", handle, f"de-{number}", definition, "1.6.4"))


async def _pass(server: Server, loop: ScaleLoop, pools: list[Pool]) -> Figures:
    for pool in pools:
        server.pools.touch(pool)
    before = time.process_time()
    report: Any = await loop.run_once()
    figures = {"pass_ms": (time.process_time() - before) * 1000, "started": float(report.started)}
    await asyncio.sleep(0.1)  # containers of no app are given up: that is none of the pass
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="pilotlight-passes-") as name:
        columns = asyncio.run(measure(Path(name), options))
    show("scaling pass", columns, options.json)


if __name__ == "__main__":
    main()
