"""A running Pilotlight for measurements: of its own unless one is named, and gone afterwards."""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import Failed, clean_environment
from pilotlight.config import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PILOTLIGHT, MODAL = str(BIN / "pilotlight"), str(BIN / "modal")
COMMAND_TIMEOUT_S = 900.0  # the first build of an image fetches a whole Debian


@dataclass(frozen=True)
class Platform:
    """How to reach it, and its processes."""

    state: Path
    environment: Mapping[str, str]  # what a client of it needs, and nothing else of ours

    def pids(self) -> dict[str, int]:
        """Process ids of supervisor, server, edge and node."""
        return self._status()["processes"]

    def containers(self) -> int:
        """How many there are, in whatever state."""
        return len(self._status()["containers"])

    def _status(self) -> dict[str, Any]:
        return json.loads(run([PILOTLIGHT, "status", "--json", "--state", str(self.state)]))

    def deploy(self, module: str) -> None:
        """Deploy a module of this package with the stock client."""
        run([MODAL, "deploy", "-m", module], self.environment)

    def stop(self, app: str) -> None:
        """Stop a deployed app, and with it what still waits."""
        run([MODAL, "app", "stop", "--yes", app], self.environment)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a platform, or say of what kind one's own is to be."""
    parser.add_argument("--state", type=Path, help="a platform's; without it there is a new one")
    parser.add_argument("--set", metavar="SETTING=VALUE", type=_setting, action="append", default=[], help="of the new one")


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in Settings.model_fields:
        raise argparse.ArgumentTypeError(f"{text!r} is no setting and its value")
    return name, value


@contextmanager
def running(options: argparse.Namespace) -> Generator[Platform, None, None]:
    """The platform that `options` name, as it is if it runs already; else one with their settings that ends with the block."""
    state: Path | None = options.state
    settings: dict[str, str] = dict(options.set)
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as name:
        place = state or Path(name) / "state"
        at = ["--state", str(place)]
        was_running = place.exists() and is_running(place)
        if was_running and settings:
            raise Failed(f"the platform at {place} runs already: it has settings of its own")
        if not was_running:
            chosen = {"web_rate_limit": "0", "rpc_rate_limit": "0"} | settings
            environment = clean_environment(**{f"PILOTLIGHT_{name.upper()}": value for name, value in chosen.items()})
            run([PILOTLIGHT, "up", "--detach", *at, "--api", free_address(), "--web", free_address()], environment)
        try:
            yield Platform(place, clean_environment(**exported(run([PILOTLIGHT, "env", *at])), PYTHONPATH=str(REPOSITORY)))
        finally:
            if not was_running:
                run([PILOTLIGHT, "down", *at])


def is_running(state: Path) -> bool:
    """Whether the platform of this state directory answers."""
    asked = subprocess.run([PILOTLIGHT, "status", "--json", "--state", str(state)], capture_output=True, check=False)
    return asked.returncode == 0


def run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command; raises Failed with all it said."""
    clean = dict(environment or clean_environment())
    done = subprocess.run(
        command, env=clean, cwd=REPOSITORY, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def exported(script: str) -> dict[str, str]:
    """The variables of a script of `export NAME=value` lines, as a shell reads them."""
    read = "import json, os; print(json.dumps(dict(os.environ)))"
    shell = ["/bin/sh", "-c", f'{script}\nexec "$0" -c "$1"', sys.executable, read]
    return {name: value for name, value in json.loads(run(shell, {"PATH": "/usr/bin:/bin"})).items() if name.startswith("MODAL_")}


def free_address() -> str:
    """A loopback address whose port nobody has; somebody may take it, then `up` says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"
