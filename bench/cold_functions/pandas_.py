"""A function whose module imports pandas."""

import modal

from bench.cold_functions.images import science

APP = "pilotlight-cold-pandas"
app = modal.App(APP, image=science, include_source=True)

with science.imports():
    import pandas


@app.function(scaledown_window=2)
def total(count: int) -> int:
    return int(pandas.Series([1] * count).sum())
