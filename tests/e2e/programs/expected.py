"""A function with an image of its own, which says whether its container was forked."""

from pathlib import Path

import modal

app = modal.App("expected", image=modal.Image.debian_slim().run_commands("echo expected > /expected"))


@app.function(single_use_containers=True, timeout=100)
def is_warm() -> bool:
    return Path("/proc/self/uid_map").read_text().split()[1] == "0"
