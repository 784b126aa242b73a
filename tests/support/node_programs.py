"""TypeScript programs of the tests, run by the pinned Node with the npm client: `make environment-node` installs both."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
TYPESCRIPT = REPOSITORY / "tests" / "typescript"
NODE = REPOSITORY / ".node" / "bin" / "node"
DEADLINE_S = 240.0


def node_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that uses the npm client: what it inherits holds nothing of Modal's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    return {**kept, "NODE_NO_WARNINGS": "1", "MODAL_CONFIG_PATH": "/nowhere/modal.toml", **variables}


def node_command(program: Path, *arguments: str) -> list[str]:
    """How to run a program; skips the test where Node is missing."""
    if not NODE.exists() or not (TYPESCRIPT / "node_modules").exists():
        pytest.skip(f"{NODE} is missing: make environment-node")
    return [str(NODE), str(program), *arguments]


def run_checks(module: str, variables: Mapping[str, str], *wanted: str, deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
    """Run a module of checks (or those that are named); what became of each."""
    command = node_command(TYPESCRIPT / "checks.ts", f"./{module}.ts", *wanted)
    done = subprocess.run(command, env=node_environment(variables), capture_output=True, text=True, timeout=deadline_s, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
    assert results and done.returncode == 0, f"{module} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-8000:]}"
    return results
