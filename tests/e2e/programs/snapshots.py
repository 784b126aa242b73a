"""A class that would like its memory to be kept between its hooks."""

import modal

app = modal.App("snapshots", image=modal.Image.debian_slim())


@app.cls(enable_memory_snapshot=True)
class Loaded:
    @modal.enter(snap=True)
    def load(self) -> None:
        self.order = ["loaded"]

    @modal.enter()
    def connect(self) -> None:
        self.order.append("connected")

    @modal.method()
    def hooks(self) -> list[str]:
        return self.order


@app.local_entrypoint()
def main() -> None:
    print(Loaded().hooks.remote())
