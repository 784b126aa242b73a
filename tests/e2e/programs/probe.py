"""Collects all that a program can see of its process and its container, started in two ways, so that these can be compared.

    python probe.py         calls the deployed functions, of which nothing runs, and prints two reports of each as JSON

`seen` has one entry per thing, equal in any two containers that were started the same way; `unique` holds what no two containers
may have in common; `checks` are things that must work. Numbers that differ from container to container (ids, addresses, times) are
left out or replaced by what they must be like.
"""

import json
from typing import Any

import modal

APP = "probe"
SECRET = {"PROBE_SECRET": "kept", "TZ": "PROBE-5:30"}
app = modal.App(APP, image=modal.Image.debian_slim().pip_install("numpy==2.2.6").add_local_python_source("probing"))
STARTS_TRIED = 20


def look() -> dict[str, Any]:
    """What one container sees, before anything else ran in it."""
    import probing

    return {"seen": probing.seen(), "unique": probing.unique(), "checks": probing.checks(), "warm": probing.is_warm()}


@app.function(single_use_containers=True, timeout=100, secrets=[modal.Secret.from_dict(SECRET)])
def forked() -> dict[str, Any]:
    return look()


# An interpreter reads variables that begin so at its start: whoever has one of his own needs an interpreter of his own.
@app.function(
    single_use_containers=True,
    timeout=100,
    secrets=[modal.Secret.from_dict({**SECRET, "PYTHON_OF_ITS_OWN": "1"})],
)
def ordinary() -> dict[str, Any]:
    return look()


def two_of(function: str, *, warm: bool) -> list[dict[str, Any]]:
    """Two reports of containers that were started this way: the first ones of an image are not forked yet."""
    reports: list[dict[str, Any]] = []
    for _ in range(STARTS_TRIED):
        report = modal.Function.from_name(APP, function).remote()
        if report["warm"] == warm:
            reports.append(report)
        if len(reports) == 2:
            break
    return reports


if __name__ == "__main__":
    print(json.dumps({"ordinary": two_of("ordinary", warm=False), "warm": two_of("forked", warm=True)}))
