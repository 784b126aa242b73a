"""Proves that containers get the GPUs that they were given, and no other.

modal run examples/gpu_smoke.py
modal run examples/gpu_smoke.py --gpu H100:2 --torch
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import modal

app = modal.App("gpu-smoke")
torch_app = modal.App("gpu-smoke-torch")  # an app of its own, so that its large image is built only for who asks for it
with_torch = modal.Image.debian_slim().pip_install("torch", "numpy")
QUERY = ("nvidia-smi", "--query-gpu=uuid,name,memory.total", "--format=csv,noheader")


def nodes() -> list[str]:
    """GPUs among the devices of this container."""
    names = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*")]
    return sorted(f"nvidia{name}" for name in names if name.isdecimal())


@app.cls(gpu="any")
class Plain:
    @modal.method()
    def look(self) -> dict[str, Any]:
        """What a container sees: by its environment, and by the driver's own tool."""
        try:
            listed = subprocess.run(QUERY, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return {"error": "there is no nvidia-smi"}
        if listed.returncode:
            return {"error": listed.stdout + listed.stderr}
        given = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        seen = [line.split(", ") for line in listed.stdout.splitlines()]
        return {"error": "", "kind": os.environ["MODAL_GPU_TYPE"], "given": given, "seen": seen, "nodes": nodes()}


@torch_app.cls(gpu="any", image=with_torch)
class Torch:
    @modal.method()
    def multiply(self) -> str:
        import torch

        matrix = torch.rand(2048, 2048, device="cuda")
        total = (matrix @ matrix).sum().item()
        return f"torch {torch.__version__} on {torch.cuda.device_count()}×{torch.cuda.get_device_name(0)}: {total:.0f}"


@app.function()
def without() -> tuple[str, list[str]]:
    return os.environ.get("CUDA_VISIBLE_DEVICES", ""), nodes()


def check(found: dict[str, Any], wanted: int) -> None:
    """Print what a container saw; ends the program where it is not what was asked for."""
    if found["error"]:
        raise SystemExit(
            f"nvidia-smi gives no answer in the container: {found['error']}\n`pilotlight doctor` tells what is missing."
        )
    given, seen = found["given"], found["seen"]
    print(f"given {found['kind']}: {', '.join(given)}")
    for uuid, *rest in seen:
        print(f"  nvidia-smi sees {uuid}: {', '.join(rest)}")
    if len(given) != wanted or len(found["nodes"]) > wanted:
        raise SystemExit(f"It asked for {wanted}, was given {given}, and has the devices {found['nodes']}.")
    # Of a slice (MIG) the tool lists the whole device.
    if not given[0].startswith("MIG-") and sorted(uuid for uuid, *_ in seen) != sorted(given):
        raise SystemExit("The container does not see what it was given.")


@app.local_entrypoint()
def main(gpu: str = "any", torch: bool = False) -> None:
    check(Plain.with_options(gpu=gpu)().look.remote(), int(gpu.partition(":")[2] or 1))
    environment, devices = without.remote()
    if environment or devices:
        raise SystemExit(f"A container that asked for no GPU has {environment or devices}.")
    print("a container without a GPU sees none")
    if torch:
        with modal.enable_output(), torch_app.run():
            print(Torch.with_options(gpu=gpu)().multiply.remote())
    print("all is well")
