"""Any program that listens on a port, behind a web address: `modal deploy examples/web_server/app.py`."""

import subprocess
from pathlib import Path

import modal

PORT = 8000

app = modal.App("web-server")
image = modal.Image.debian_slim().add_local_file(Path(__file__).parent / "server.py", "/server.py")


@app.function(image=image, scaledown_window=60)
@modal.concurrent(max_inputs=100)
@modal.web_server(PORT, startup_timeout=120)
def generate() -> None:
    subprocess.Popen(["python", "/server.py", "--port", str(PORT), "--load-s", "3"])
