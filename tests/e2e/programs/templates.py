"""Functions whose containers are forked; each call has a container of its own."""

import os
import time
from pathlib import Path

import modal

APP = "templates"
SECRET = "canary-of-one-function-0f3a"
app = modal.App(APP, image=modal.Image.debian_slim())


def is_warm() -> bool:
    """Whether this container was forked: its user namespace is one level deeper."""
    return Path("/proc/self/uid_map").read_text().split()[1] == "0"


@app.function(single_use_containers=True, timeout=100, secrets=[modal.Secret.from_dict({"TEMPLATES_SECRET": SECRET})])
def where() -> dict[str, object]:
    return {"warm": is_warm(), "secret": os.environ["TEMPLATES_SECRET"]}


@app.function(single_use_containers=True, timeout=100)
def slow(name: str) -> str:
    """Until somebody says in a Dict that it is enough."""
    said = modal.Dict.from_name("templates", create_if_missing=True)
    said[f"{name} began"] = is_warm()
    while not said.get(f"{name} may end"):
        time.sleep(0.1)
    return name


@app.function(single_use_containers=True, timeout=100)
def ends(code: int) -> None:
    os._exit(code)
