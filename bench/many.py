"""Deployed functions without any load, and two to be scaled."""

import os
import time

import modal

APP = "pilotlight-bench-many"
FUNCTIONS = 200
app = modal.App(APP, image=modal.Image.debian_slim(), include_source=True)


def nothing() -> None:
    """Never called."""


for number in range(FUNCTIONS):
    app.function(name=f"nothing-{number}", serialized=True)(nothing)


@app.function(max_containers=100)
def one_second(number: int) -> tuple[float, str]:
    """When it began (seconds since the epoch), and in which container."""
    began = time.time()
    time.sleep(1.0)
    return began, os.environ["MODAL_TASK_ID"]
