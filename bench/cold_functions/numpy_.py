"""A function whose module imports numpy."""

import modal

from bench.cold_functions.images import science

APP = "pilotlight-cold-numpy"
app = modal.App(APP, image=science, include_source=True)

with science.imports():
    import numpy


@app.function(scaledown_window=2)
def total(count: int) -> int:
    return int(numpy.ones(count).sum())
