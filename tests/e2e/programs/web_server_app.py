"""A server of its own, which answers at its port and asks for no inputs."""

import subprocess

import modal

app = modal.App("web-server", image=modal.Image.debian_slim())


@app.server(port=8000, routing_region="us-east", unauthenticated=True)
class Files:
    @modal.enter()
    def start(self) -> None:
        self.process = subprocess.Popen(["python3", "-m", "http.server", "8000"])

    @modal.exit()
    def stop(self) -> None:
        self.process.terminate()
