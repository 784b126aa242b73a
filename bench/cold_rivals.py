"""Other ways to start a Python process, and what the client's own imports cost: the ruler beside cold starts.

What is not installed is left out. Each way is a function that starts, waits for a sign of life, clears away, and returns the
milliseconds until the sign.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.processes import Process, clean_environment

ENTRYPOINT = "modal._container_entrypoint"
RAW_FORK = f"""
import json, os, sys, time
import {ENTRYPOINT}
for line in sys.stdin:
    began = time.perf_counter()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    print(json.dumps({{"ms": (time.perf_counter() - began) * 1000}}), flush=True)
"""
RAY_ACTOR = """
import json, sys, time
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)

@ray.remote
class Actor:
    def noop(self):
        return None

for line in sys.stdin:
    began = time.perf_counter()
    actor = Actor.remote()
    ray.get(actor.noop.remote())
    print(json.dumps({"ms": (time.perf_counter() - began) * 1000}), flush=True)
    ray.kill(actor)
"""


def ways(directory: Path, ray_python: Path | None) -> dict[str, Callable[[], float]]:
    """The ways that this machine has, by name. Helpers of theirs end with this process."""
    found: dict[str, Callable[[], float]] = {
        "python3 -c pass": lambda: _timed([sys.executable, "-S", "-c", "pass"]),
        "a new interpreter imports the client": lambda: _timed([sys.executable, "-c", f"import {ENTRYPOINT}"]),
    }
    found["a bare fork of one that has"] = _asked(Process("fork", [sys.executable, "-c", RAW_FORK], directory, clean_environment()))
    if ray_python is not None:
        found["a new actor of Ray"] = _asked(Process("ray", [str(ray_python), "-c", RAY_ACTOR], directory, clean_environment()))
    for engine in ("docker", "podman"):
        if (image := _image_of(engine)) is not None:
            found[f"{engine} run python3 -c pass"] = lambda engine=engine, image=image: _timed(
                [engine, "run", "--rm", image, "python3", "-c", "pass"]
            )
    return found


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=clean_environment())
    return (time.perf_counter() - began) * 1000


def _asked(process: Process) -> Callable[[], float]:
    return lambda: float(process.ask(work="start")["ms"])


def _image_of(engine: str) -> str | None:
    """An image that an engine has already and that holds Python, named by PILOTLIGHT_BENCH_IMAGE; None: it can't be measured."""
    image = os.environ.get("PILOTLIGHT_BENCH_IMAGE", "python:3.11-slim-bookworm")
    if shutil.which(engine) is None:
        return None
    known = subprocess.run([engine, "image", "inspect", image], capture_output=True, check=False)
    return image if known.returncode == 0 else None
