"""Checks of GPUs that were declared: what containers and build steps are told. See `checks.py` and `../test_gpus.py`."""

import os
from pathlib import Path

import modal

built = modal.Image.debian_slim().run_commands("echo $CUDA_VISIBLE_DEVICES,$MODAL_GPU_TYPE >/built-with", gpu="A10G")
app = modal.App("gpus")


def facts() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "_GPU_" in name or "_VISIBLE_" in name}


@app.function(gpu="a10g:2")
def both() -> dict[str, str]:
    return facts()


@app.function(gpu=["H100", "A10"])
def second_choice() -> dict[str, str]:
    return facts()


@app.function(image=built)
def none() -> tuple[dict[str, str], str]:
    return facts(), Path("/built-with").read_text().strip()


@app.function(gpu="any")
def which() -> None:
    print(f"given {os.environ['CUDA_VISIBLE_DEVICES']}", flush=True)


@app.function(gpu="any")
def hold() -> None:
    print(f"holding {os.environ['CUDA_VISIBLE_DEVICES']}", flush=True)
    modal.Queue.from_name("gpus-never", create_if_missing=True).get()


def check_gpus_of_functions_and_builds() -> None:
    uuids = both.remote()["CUDA_VISIBLE_DEVICES"].split(",")
    assert len(set(uuids)) == 2
    found = second_choice.remote()
    assert found["CUDA_VISIBLE_DEVICES"] in uuids
    assert (found["MODAL_GPU_TYPE"], found["MODAL_GPU_COUNT"]) == ("A10G", "1")
    has, built_with = none.remote()
    assert has == {}, has
    uuid, kind = built_with.split(",")
    assert uuid in uuids and kind == "A10G", built_with
