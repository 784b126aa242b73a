"""What is deployed to count what containers leave behind: each call of most functions here is a container of its own."""

import os
import time
from pathlib import Path

import modal

APP = "starts"
app = modal.App(APP, image=modal.Image.debian_slim())
volume = modal.Volume.from_name("starts-volume", create_if_missing=True)
secret = modal.Secret.from_dict({"STARTS_WORD": "word"})
FILES = Path("/files")


@app.function(single_use_containers=True)
def plain(number: int) -> int:
    return number + 1


@app.function(single_use_containers=True, volumes={str(FILES): volume}, secrets=[secret])
def keeps(number: int) -> int:
    (FILES / "last").write_text(f"{number} {os.environ['STARTS_WORD']}")
    volume.commit()
    return number + 1


@app.function(single_use_containers=True, block_network=True)
def alone(number: int) -> int:
    return number + 1


@app.function(single_use_containers=True)
def fails(number: int) -> int:
    raise ValueError(number)


@app.function(single_use_containers=True)
def dies(number: int) -> int:
    os._exit(3)


@app.function(single_use_containers=True, timeout=1, startup_timeout=120)  # of an ordinary start on a busy machine
def hangs(number: int) -> int:
    while True:
        time.sleep(60.0)


@app.function(scaledown_window=2, max_containers=1)
@modal.concurrent(max_inputs=100)
def busy(number: int) -> int:
    return number + 1
