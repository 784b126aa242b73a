"""A function that looks at the bytecode of its own module, and changes its own source."""

import subprocess
import sys
from pathlib import Path

import modal

VALUE = 1
app = modal.App("compiled", image=modal.Image.debian_slim())


@app.function(single_use_containers=True)
def look() -> dict[str, object]:
    """The flags of the bytecode (PEP 552), and what another interpreter makes of this module before and after a change."""
    flags = Path(__cached__).read_bytes()[4]
    show = [sys.executable, "-c", "import compiled; print(compiled.VALUE)"]
    before = subprocess.run(show, check=True, capture_output=True, text=True, cwd="/root").stdout.strip()
    source = Path(__file__)
    source.write_text(source.read_text().replace("VALUE = 1", "VALUE = 2"))
    after = subprocess.run(show, check=True, capture_output=True, text=True, cwd="/root").stdout.strip()
    return {"flags": flags, "before": before, "after": after}
